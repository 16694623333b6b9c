package keyimport

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The ErrorInfo of any other domain is not the broker's, and gives no reason.
const domain = "keyimport"

// A Kind is what went wrong, for errors.Is:
//
//	if errors.Is(err, keyimport.KeyNotFound) { ... }
//
// Each [Error] is of one Kind, and of the wider Kinds that this one belongs to. They are named as in the clients of the
// other languages, so that one word finds them all.
type Kind string

// The Kinds, the wider ones first in each group.
const (
	// RequestRefused is the Kind of requests that cannot be carried out as they stand: ask differently.
	RequestRefused   Kind = "RequestRefused"
	KeyIdMalformed   Kind = "KeyIdMalformed"
	AliasNotAllowed  Kind = "AliasNotAllowed"
	RequestMalformed Kind = "RequestMalformed"
	RegionNotServed  Kind = "RegionNotServed"

	// WrappingRefused, itself a RequestRefused, asks for another wrapping algorithm or wrapping key spec.
	WrappingRefused             Kind = "WrappingRefused"
	WrappingAlgorithmDeprecated Kind = "WrappingAlgorithmDeprecated"
	WrappingAlgorithmNotAllowed Kind = "WrappingAlgorithmNotAllowed"
	WrappingKeySpecNotAllowed   Kind = "WrappingKeySpecNotAllowed"
	WrappingUnsuitable          Kind = "WrappingUnsuitable"

	// CallerRefused is the Kind of callers that may not do this: be someone else, or be granted more.
	CallerRefused         Kind = "CallerRefused"
	CallerUnauthenticated Kind = "CallerUnauthenticated"
	ForeignAccount        Kind = "ForeignAccount"
	CallerNotAuthorized   Kind = "CallerNotAuthorized"

	// KeyRefused is the Kind of keys that cannot take imported key material now, or ever.
	KeyRefused           Kind = "KeyRefused"
	KeyNotFound          Kind = "KeyNotFound"
	KeyNotExternal       Kind = "KeyNotExternal"
	KeyStateIncompatible Kind = "KeyStateIncompatible"

	// ImportTokenRefused asks for new parameters and a new wrapping.
	ImportTokenRefused Kind = "ImportTokenRefused"
	ImportTokenInvalid Kind = "ImportTokenInvalid"
	ImportTokenExpired Kind = "ImportTokenExpired"

	// KeyMaterialRefused asks for other key material, or for another wrapping of it.
	KeyMaterialRefused    Kind = "KeyMaterialRefused"
	KeyMaterialMismatch   Kind = "KeyMaterialMismatch"
	KeyMaterialUnreadable Kind = "KeyMaterialUnreadable"

	// TryLater is the Kind of what nothing is wrong with but its time: see [Error.RetryAfter].
	TryLater                 Kind = "TryLater"
	QuotaWaitExceedsDeadline Kind = "QuotaWaitExceedsDeadline"
	QuotaQueueFull           Kind = "QuotaQueueFull"
	CallerRateExceeded       Kind = "CallerRateExceeded"
	KmsThrottled             Kind = "KmsThrottled"
	KmsUnavailable           Kind = "KmsUnavailable"
	BrokerCredentials        Kind = "BrokerCredentials"

	// OutcomeUnknown is an import or delete that was sent and not answered, to the broker or (then without a Reason) to
	// this library: look at the key before trying again.
	OutcomeUnknown Kind = "OutcomeUnknown"

	// BrokerFault is for the broker's operators, who want to know Metadata["correlation_id"].
	BrokerFault     Kind = "BrokerFault"
	KmsDeniedBroker Kind = "KmsDeniedBroker"
	KmsBadResponse  Kind = "KmsBadResponse"
	Internal        Kind = "Internal"

	// WrappingKeyRejected is found here: the broker's answer is not what was asked for, and nothing may be wrapped under
	// it.
	WrappingKeyRejected Kind = "WrappingKeyRejected"
	// MaterialUnsuitable is found here: the key material cannot be wrapped that way, and nothing was sent.
	MaterialUnsuitable Kind = "MaterialUnsuitable"
)

// kindsByReason has the Kind of each ErrorReason of the proto.
var kindsByReason = map[string]Kind{
	"KEY_ID_MALFORMED":               KeyIdMalformed,
	"ALIAS_NOT_ALLOWED":              AliasNotAllowed,
	"REQUEST_MALFORMED":              RequestMalformed,
	"REGION_NOT_SERVED":              RegionNotServed,
	"WRAPPING_ALGORITHM_DEPRECATED":  WrappingAlgorithmDeprecated,
	"WRAPPING_ALGORITHM_NOT_ALLOWED": WrappingAlgorithmNotAllowed,
	"WRAPPING_KEY_SPEC_NOT_ALLOWED":  WrappingKeySpecNotAllowed,
	"WRAPPING_UNSUITABLE":            WrappingUnsuitable,
	"CALLER_UNAUTHENTICATED":         CallerUnauthenticated,
	"FOREIGN_ACCOUNT":                ForeignAccount,
	"CALLER_NOT_AUTHORIZED":          CallerNotAuthorized,
	"KEY_NOT_FOUND":                  KeyNotFound,
	"KEY_NOT_EXTERNAL":               KeyNotExternal,
	"KEY_STATE_INCOMPATIBLE":         KeyStateIncompatible,
	"IMPORT_TOKEN_INVALID":           ImportTokenInvalid,
	"IMPORT_TOKEN_EXPIRED":           ImportTokenExpired,
	"KEY_MATERIAL_MISMATCH":          KeyMaterialMismatch,
	"KEY_MATERIAL_UNREADABLE":        KeyMaterialUnreadable,
	"QUOTA_WAIT_EXCEEDS_DEADLINE":    QuotaWaitExceedsDeadline,
	"QUOTA_QUEUE_FULL":               QuotaQueueFull,
	"CALLER_RATE_EXCEEDED":           CallerRateExceeded,
	"KMS_THROTTLED":                  KmsThrottled,
	"KMS_UNAVAILABLE":                KmsUnavailable,
	"BROKER_CREDENTIALS":             BrokerCredentials,
	"KMS_DENIED_BROKER":              KmsDeniedBroker,
	"OUTCOME_UNKNOWN":                OutcomeUnknown,
	"KMS_BAD_RESPONSE":               KmsBadResponse,
	"INTERNAL":                       Internal,
}

var narrowerKinds = map[Kind][]Kind{
	RequestRefused: {KeyIdMalformed, AliasNotAllowed, RequestMalformed, RegionNotServed, WrappingRefused},
	WrappingRefused: {
		WrappingAlgorithmDeprecated, WrappingAlgorithmNotAllowed, WrappingKeySpecNotAllowed, WrappingUnsuitable,
	},
	CallerRefused:      {CallerUnauthenticated, ForeignAccount, CallerNotAuthorized},
	KeyRefused:         {KeyNotFound, KeyNotExternal, KeyStateIncompatible},
	ImportTokenRefused: {ImportTokenInvalid, ImportTokenExpired},
	KeyMaterialRefused: {KeyMaterialMismatch, KeyMaterialUnreadable},
	TryLater: {
		QuotaWaitExceedsDeadline, QuotaQueueFull, CallerRateExceeded, KmsThrottled, KmsUnavailable, BrokerCredentials,
	},
	BrokerFault: {KmsDeniedBroker, KmsBadResponse, Internal},
}

// Error makes a Kind an error that errors.Is can look for. This library returns no bare Kind, but an [Error] of it.
func (k Kind) Error() string { return "keyimport: " + string(k) }

// Is says whether the Kind is the target's, or the target is a wider one; it is for errors.Is.
func (k Kind) Is(target error) bool {
	wider, ok := target.(Kind)
	return ok && (k == wider || slices.ContainsFunc(narrowerKinds[wider], func(narrower Kind) bool {
		return k.Is(narrower)
	}))
}

// An Error is a request that did not succeed. It wraps its Kind, the error gRPC gave, and context.Canceled or
// context.DeadlineExceeded where that is what ended it, so that errors.Is and status.Code see those too.
type Error struct {
	// Kind is what went wrong; empty for a Reason newer than this library, and where the broker gave none.
	Kind Kind
	// Reason is the bare word of the proto's ErrorReason, or empty if the broker sent none.
	Reason string
	// Code is the status of the call, or codes.OK where this library itself refused.
	Code codes.Code
	// Message is one sentence, fit to be shown.
	Message string
	// Field is the request's field at fault, if one is.
	Field string
	// Metadata has the broker's further particulars, such as "suitable" or "correlation_id".
	Metadata map[string]string

	retryAfter *time.Duration
	causes     []error
}

// Error is the Reason, or the Code where there is none, and the Message.
func (e *Error) Error() string {
	switch {
	case e.Reason != "":
		return "keyimport: " + e.Reason + ": " + e.Message
	case e.Code != codes.OK:
		return "keyimport: " + e.Code.String() + ": " + e.Message
	default:
		return "keyimport: " + e.Message
	}
}

// RetryAfter is how long to wait before the same request can succeed; false if the broker did not say.
func (e *Error) RetryAfter() (time.Duration, bool) {
	if e.retryAfter == nil {
		return 0, false
	}
	return *e.retryAfter, true
}

// Unwrap gives the Kind, if there is one, and the causes.
func (e *Error) Unwrap() []error {
	if e.Kind == "" {
		return e.causes
	}
	return append([]error{e.Kind}, e.causes...)
}

// An ArgumentError is a misuse of this library: nothing was sent.
type ArgumentError string

func (e ArgumentError) Error() string { return "keyimport: " + string(e) }

func rejected(format string, arguments ...any) error {
	return &Error{Kind: WrappingKeyRejected, Message: fmt.Sprintf(format, arguments...)}
}

func unsuitable(format string, arguments ...any) error {
	return &Error{Kind: MaterialUnsuitable, Message: fmt.Sprintf(format, arguments...)}
}

// brokenOff are the statuses that gRPC makes up by itself when a call breaks off.
var brokenOff = []codes.Code{
	codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.Unavailable,
}

// fromRPC is the typed form of a failed call. If the call changes the key, breaking off leaves its outcome open.
func fromRPC(err error, effect effect) *Error {
	refusal := status.Convert(err)
	result := &Error{Code: refusal.Code(), Message: refusal.Message(), causes: []error{err}}
	// By the code, because the context can be a moment behind gRPC in noticing.
	switch result.Code {
	case codes.Canceled:
		result.causes = append(result.causes, context.Canceled)
	case codes.DeadlineExceeded:
		result.causes = append(result.causes, context.DeadlineExceeded)
	}
	if result.Message == "" {
		result.Message = result.Code.String()
	}
	// A detail that is damaged or of an unknown type is an error in its place, and passed over.
	for _, detail := range refusal.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == domain {
				result.Reason, result.Metadata = detail.GetReason(), detail.GetMetadata()
			}
		case *errdetails.RetryInfo:
			if delay := detail.GetRetryDelay(); delay.CheckValid() == nil && delay.AsDuration() >= 0 {
				after := delay.AsDuration()
				result.retryAfter = &after
			}
		case *errdetails.BadRequest:
			if violations := detail.GetFieldViolations(); len(violations) > 0 {
				result.Field = violations[0].GetField()
			}
		}
	}
	result.Kind = kindsByReason[result.Reason]
	if effect == changesKey && result.Reason == "" && slices.Contains(brokenOff, result.Code) {
		result.Kind = OutcomeUnknown
		result.Message = "the call broke off (" + result.Message + "); look at the key before trying again"
	}
	return result
}
