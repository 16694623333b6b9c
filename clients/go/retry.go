package keyimport

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

const (
	defaultTimeout = 30 * time.Second
	firstDelay     = 100 * time.Millisecond
	longestDelay   = 2 * time.Second
	lengthened     = 0.2 // at most, so that many callers who were refused at once do not return at once
)

// effect is what a call does to a key.
type effect bool

const (
	readsOnly  effect = false
	changesKey effect = true
)

// withTimeout is the context with the default timeout where it has no deadline.
func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultTimeout)
}

// call makes a call, and makes it again as long as that can help within the context's deadline. It is the one place
// where anything is tried again.
func call[Request, Response any](
	ctx context.Context,
	connection *grpc.ClientConn,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error),
	request *Request,
	effect effect,
) (*Response, error) {
	for attempt := 0; ; attempt++ {
		if err := over(ctx); err != nil {
			// Nothing was sent, so that the outcome is known.
			return nil, fromRPC(status.FromContextError(err).Err(), readsOnly)
		}
		answer, err := method(ctx, request)
		if err == nil {
			return answer, nil
		}
		refusal := fromRPC(err, effect)
		delay, ok := delayBeforeRetry(refusal, attempt, effect)
		// A connection that was closed here ends its calls like a broker that restarts.
		if !ok || connection.GetState() == connectivity.Shutdown {
			return nil, refusal
		}
		// As floating point, because the longest delay that can be told has no room to be lengthened.
		wait := float64(delay) * (1 + lengthened*rand.Float64())
		if deadline, _ := ctx.Deadline(); wait >= float64(time.Until(deadline)) {
			return nil, refusal
		}
		select {
		case <-ctx.Done():
			refusal.causes = append(refusal.causes, ctx.Err())
			return nil, refusal
		case <-time.After(time.Duration(wait)):
		}
	}
}

// over is why nothing more may be sent, or nil. A context is told of its deadline by a timer, which can be late.
func over(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// delayBeforeRetry is how long to wait before the same call is made again; false where it is not. The first call is
// attempt 0.
func delayBeforeRetry(refusal *Error, attempt int, effect effect) (time.Duration, bool) {
	switch after, ok := refusal.RetryAfter(); {
	case refusal.Kind == OutcomeUnknown:
		return 0, false
	case refusal.Reason != "":
		// The delay is the broker's word only beside a reason of the broker's; a proxy may send RetryInfo as well. No delay
		// at all would be a loop as fast as the connection.
		return max(after, firstDelay), ok
	case (refusal.Code == codes.Unavailable || refusal.Code == codes.Canceled) && effect == readsOnly:
		// The broker is restarting. Where it was the context that was cancelled, the wait ends before it begins.
		return min(firstDelay<<min(attempt, 10), longestDelay), true
	default:
		return 0, false
	}
}
