package keyimport

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "example.com/keybroker/keyimport/keyimportpb"
)

// A reason added to the proto without a Kind of its name fails here.
func TestEachReasonHasItsKind(t *testing.T) {
	for name, value := range pb.ErrorReason_value {
		reason := strings.TrimPrefix(name, "ERROR_REASON_")
		if value == 0 {
			continue
		}
		kind, ok := kindsByReason[reason]
		var wanted strings.Builder
		for _, part := range strings.Split(reason, "_") {
			wanted.WriteString(part[:1] + strings.ToLower(part[1:]))
		}
		if !ok || string(kind) != wanted.String() {
			t.Errorf("%s has the Kind %q, not %q", reason, kind, wanted.String())
		}
		err := read(refusal(codes.FailedPrecondition, reason, -1), readsOnly)
		if !errors.Is(err, kind) || err.Reason != reason || err.Code != codes.FailedPrecondition {
			t.Errorf("%s: %#v", reason, err)
		}
	}
	if len(kindsByReason) != len(pb.ErrorReason_value)-1 {
		t.Error("a Kind stands for a reason the proto lacks")
	}
}

func TestAKindBelongsToTheWiderKinds(t *testing.T) {
	for _, c := range []struct {
		kind, of Kind
		is       bool
	}{
		{KeyNotFound, KeyNotFound, true},
		{KeyNotFound, KeyRefused, true},
		{KeyNotFound, CallerRefused, false},
		{WrappingUnsuitable, WrappingRefused, true},
		{WrappingUnsuitable, RequestRefused, true},
		{RequestRefused, WrappingUnsuitable, false},
		{KmsThrottled, TryLater, true},
		{OutcomeUnknown, BrokerFault, false},
	} {
		if got := errors.Is(&Error{Kind: c.kind}, c.of); got != c.is {
			t.Errorf("%s is %s: %v", c.kind, c.of, got)
		}
	}
	for wider, narrower := range narrowerKinds {
		for _, kind := range narrower {
			if !errors.Is(kind, wider) {
				t.Errorf("%s is not %s", kind, wider)
			}
		}
	}
}

func TestOnlyTheBrokersDomainGivesAReason(t *testing.T) {
	metadata := map[string]string{"a": "b"}
	foreign := &errdetails.ErrorInfo{Reason: "KEY_NOT_FOUND", Domain: "proxy.example", Metadata: metadata}
	own := &errdetails.ErrorInfo{Reason: "KMS_THROTTLED", Domain: domain, Metadata: metadata}

	alone := read(withDetails(codes.NotFound, foreign), readsOnly)
	if alone.Kind != "" || alone.Reason != "" || alone.Metadata != nil || alone.Code != codes.NotFound {
		t.Errorf("%#v", alone)
	}
	among := read(withDetails(codes.ResourceExhausted, foreign, &errdetails.Help{}, own, foreign), readsOnly)
	if among.Kind != KmsThrottled || among.Metadata["a"] != "b" {
		t.Errorf("%#v", among)
	}
}

func TestANewerReasonIsAPlainErrorWithThatReason(t *testing.T) {
	for _, effect := range []effect{readsOnly, changesKey} {
		err := read(refusal(codes.Internal, "MOON_TOO_FULL", -1), effect)
		if err.Kind != "" || err.Reason != "MOON_TOO_FULL" || errors.Is(err, OutcomeUnknown) {
			t.Errorf("%#v", err)
		}
	}
}

func TestRetryInfoAndBadRequestAreRead(t *testing.T) {
	info := &errdetails.ErrorInfo{Reason: "KMS_THROTTLED", Domain: domain}
	for _, c := range []struct {
		delay *durationpb.Duration
		after time.Duration
		told  bool
	}{
		{&durationpb.Duration{Seconds: 4}, 4 * time.Second, true},
		{&durationpb.Duration{Nanos: 250_000_000}, 250 * time.Millisecond, true},
		{&durationpb.Duration{}, 0, true},
		{&durationpb.Duration{Seconds: -4}, 0, false},
		{&durationpb.Duration{Seconds: 1 << 62}, 0, false},
		{nil, 0, false},
	} {
		err := read(withDetails(codes.ResourceExhausted, info, &errdetails.RetryInfo{RetryDelay: c.delay}), readsOnly)
		if after, ok := err.RetryAfter(); after != c.after || ok != c.told || err.Kind != KmsThrottled {
			t.Errorf("%v: %v, %v", c.delay, after, ok)
		}
	}
	violations := &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: "valid_to"}, {Field: "key_id"},
	}}
	if err := read(withDetails(codes.InvalidArgument, info, violations), readsOnly); err.Field != "valid_to" {
		t.Errorf("%#v", err)
	}
	if err := read(withDetails(codes.InvalidArgument, info, &errdetails.BadRequest{}), readsOnly); err.Field != "" {
		t.Errorf("%#v", err)
	}
}

func TestDamagedDetailsHideNoSoundOnes(t *testing.T) {
	info, err := anypb.New(&errdetails.ErrorInfo{Reason: "KMS_THROTTLED", Domain: domain})
	if err != nil {
		t.Fatal(err)
	}
	damaged := []*anypb.Any{
		{TypeUrl: "type.googleapis.com/google.rpc.RetryInfo", Value: []byte{0xff}},
		{TypeUrl: "no slash", Value: []byte{0x0a}},
	}
	for _, details := range [][]*anypb.Any{damaged, append(damaged, info)} {
		err := read(status.ErrorProto(&spb.Status{Code: int32(codes.ResourceExhausted), Details: details}), readsOnly)
		if _, told := err.RetryAfter(); told || (err.Kind == KmsThrottled) != (len(details) == 3) {
			t.Errorf("%#v", err)
		}
	}
}

func TestAChangeThatBreaksOffHasAnUnknownOutcome(t *testing.T) {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		open := code == codes.Canceled || code == codes.Unknown || code == codes.DeadlineExceeded ||
			code == codes.Internal || code == codes.Unavailable
		err := status.Error(code, "")
		change, question := read(err, changesKey), read(err, readsOnly)
		if errors.Is(change, OutcomeUnknown) != open || change.Code != code || change.Reason != "" {
			t.Errorf("%s: %#v", code, change)
		}
		if question.Kind != "" || question.Message != code.String() {
			t.Errorf("%s: %#v", code, question)
		}
	}
	if err := read(refusal(codes.Unavailable, "KMS_UNAVAILABLE", -1), changesKey); err.Kind != KmsUnavailable {
		t.Errorf("the broker's own reason says that the change was not made: %#v", err)
	}
}

func TestCausesAreWrapped(t *testing.T) {
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		gave := status.FromContextError(cause).Err()
		err := read(gave, changesKey)
		if !errors.Is(err, cause) || !errors.Is(err, OutcomeUnknown) || status.Code(err) != status.Code(gave) {
			t.Errorf("%#v", err)
		}
	}
}

func TestTheTextHasReasonAndMessage(t *testing.T) {
	here := status.Error(codes.Unimplemented, "Not here.")
	found := refusal(codes.NotFound, "KEY_NOT_FOUND", -1)
	for text, err := range map[string]error{
		"keyimport: KEY_NOT_FOUND: A sentence for the caller.": read(found, readsOnly),
		"keyimport: Unimplemented: Not here.":                  read(here, readsOnly),
		"keyimport: the key material is empty":                 unsuitable("the key material is empty"),
	} {
		if err.Error() != text {
			t.Errorf("%q is not %q", err, text)
		}
	}
}

func read(err error, effect effect) *Error { return fromRPC(err, effect) }
