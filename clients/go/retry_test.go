package keyimport

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestWhatIsTriedAgain(t *testing.T) {
	const second = time.Second
	bare := status.Error(codes.Unavailable, "away")
	stopped := status.Error(codes.Canceled, "stopped")
	ofProxy := withDetails(codes.ResourceExhausted, &errdetails.RetryInfo{RetryDelay: durationpb.New(second)})
	for _, c := range []struct {
		name    string
		err     error
		attempt int
		effect  effect
		delay   time.Duration
		again   bool
	}{
		{"told when", refusal(codes.ResourceExhausted, "QUOTA_QUEUE_FULL", 3*second), 0, readsOnly, 3 * second, true},
		{"told when, a change", refusal(codes.Unavailable, "KMS_UNAVAILABLE", second), 7, changesKey, second, true},
		{"told when by a newer reason", refusal(codes.Internal, "MOON_TOO_FULL", second), 0, changesKey, second, true},
		{"told at once", refusal(codes.ResourceExhausted, "KMS_THROTTLED", 0), 0, readsOnly, firstDelay, true},
		{"not told when", refusal(codes.Unavailable, "KMS_UNAVAILABLE", -1), 0, readsOnly, 0, false},
		{"told when, by whom?", ofProxy, 0, readsOnly, 0, false},
		{"unknown, whatever is told", refusal(codes.Unknown, "OUTCOME_UNKNOWN", second), 0, changesKey, 0, false},
		{"away", bare, 0, readsOnly, second / 10, true},
		{"still away", bare, 1, readsOnly, second / 5, true},
		{"for long", bare, 4, readsOnly, 8 * second / 5, true},
		{"for longer", bare, 5, readsOnly, 2 * second, true},
		{"for ever", bare, math.MaxInt, readsOnly, 2 * second, true},
		{"away from a change", bare, 0, changesKey, 0, false},
		{"stopped", stopped, 0, readsOnly, second / 10, true},
		{"stopped for long", stopped, 4, readsOnly, 8 * second / 5, true},
		{"stopped in a change", stopped, 0, changesKey, 0, false},
		{"other codes", status.Error(codes.Internal, ""), 0, readsOnly, 0, false},
		{"out of time", status.Error(codes.DeadlineExceeded, ""), 0, readsOnly, 0, false},
	} {
		delay, again := delayBeforeRetry(read(c.err, c.effect), c.attempt, c.effect)
		if again != c.again || again && delay != c.delay {
			t.Errorf("%s: %v, %v", c.name, delay, again)
		}
	}
}

func TestARefusedImportIsSentAgainWhenTheBrokerSays(t *testing.T) {
	const delay = 150 * time.Millisecond
	broker := &fakeBroker{
		absences: []error{refusal(codes.ResourceExhausted, "QUOTA_QUEUE_FULL", delay)},
		refusals: []error{refusal(codes.Unavailable, "KMS_UNAVAILABLE", delay)},
	}
	client := start(t, broker)
	began := time.Now()

	_, err := client.ImportKeyMaterial(t.Context(), testKeyID, randomBytes(32), forEver)

	if took := time.Since(began); err != nil || took < 2*delay {
		t.Errorf("%v after %v", err, took)
	}
	if want := []string{"get", "get", "import", "import"}; !slices.Equal(broker.calls, want) {
		t.Errorf("%v", broker.calls)
	}
}

func TestALongerDelayThanTheTimeLeftIsNotWaitedFor(t *testing.T) {
	for _, delay := range []time.Duration{5 * time.Second, math.MaxInt64} {
		broker := &fakeBroker{absences: []error{refusal(codes.ResourceExhausted, "KMS_THROTTLED", delay)}}
		client := start(t, broker)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()

		_, err := client.GetParameters(ctx, testKeyID, ParametersOptions{})

		if !errors.Is(err, KmsThrottled) || errors.Is(err, context.DeadlineExceeded) || len(broker.calls) != 1 {
			t.Errorf("%v after %v", err, broker.calls)
		}
	}
}

func TestCancellingEndsTheWait(t *testing.T) {
	client := start(t, &fakeBroker{refusals: []error{refusal(codes.Unavailable, "KMS_UNAVAILABLE", 20*time.Second)}})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)

	_, err := client.DeleteImportedKeyMaterial(ctx, testKeyID, "")

	if !errors.Is(err, KmsUnavailable) || !errors.Is(err, context.Canceled) || errors.Is(err, OutcomeUnknown) {
		t.Errorf("%v", err)
	}
}

func TestACancelledCallIsNotTriedAgain(t *testing.T) {
	asked := make(chan struct{}, 9)
	client := start(t, &fakeBroker{stalled: true, asked: asked})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()

	_, err := client.Status(ctx, testKeyID)

	if status.Code(err) != codes.Canceled || !errors.Is(err, context.Canceled) || len(asked) != 0 {
		t.Errorf("%v, and asked %d times more", err, len(asked))
	}
}

func TestAClosedClientIsOfNoUse(t *testing.T) {
	// What is tried again until the time is up would outlast the test.
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	defer cancel()
	asked := make(chan struct{}, 9)
	client := start(t, &fakeBroker{stalled: true, asked: asked})
	go func() {
		<-asked
		client.Close()
	}()

	_, underWay := client.Status(ctx, testKeyID)
	_, later := client.Status(ctx, testKeyID)

	if underWay == nil || status.Code(later) != codes.Canceled || len(asked) != 0 {
		t.Errorf("%v, %v, and asked %d times more", underWay, later, len(asked))
	}
}

func TestWhatChangesNoKeyWaitsForABrokerThatIsAway(t *testing.T) {
	socket := socketPath(t)
	client := connect(t, "unix:"+socket)
	broker := &fakeBroker{refusals: []error{
		status.Error(codes.Unavailable, "stopping"), status.Error(codes.Canceled, "stopped"),
	}}
	late := make(chan net.Addr)
	time.AfterFunc(300*time.Millisecond, func() { late <- serve(t, broker, "unix", socket) })

	status, err := client.Status(t.Context(), testKeyID)

	<-late
	if err != nil || status.KeyState != "PendingImport" || !status.ExternalOrigin || !status.MaterialValidTo.IsZero() {
		t.Errorf("%+v, %v", status, err)
	}
	if want := []string{"status", "status", "status"}; !slices.Equal(broker.calls, want) {
		t.Errorf("%v", broker.calls)
	}
}

func TestAChangeIsNotSentAgainIntoTheDark(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.Canceled, codes.Internal} {
		broker := &fakeBroker{refusals: []error{status.Error(code, "stopping"), status.Error(code, "stopping")}}
		client := start(t, broker)

		_, deleting := client.DeleteImportedKeyMaterial(t.Context(), testKeyID, "")
		_, importing := client.ImportWrapped(t.Context(), testKeyID, []byte("w"), []byte("t"), forEver)

		if !errors.Is(deleting, OutcomeUnknown) || !errors.Is(importing, OutcomeUnknown) {
			t.Errorf("%v, %v", deleting, importing)
		}
		if want := []string{"delete", "import"}; !slices.Equal(broker.calls, want) {
			t.Errorf("%v", broker.calls)
		}
	}
}

func TestTheTimeoutIsToldToTheBrokerAndKept(t *testing.T) {
	broker := &fakeBroker{}
	client := start(t, broker)
	if err := client.Discard(t.Context(), testKeyID, []byte("token")); err != nil {
		t.Fatal(err)
	}
	if broker.patience < 25*time.Second || broker.patience > defaultTimeout {
		t.Errorf("by default %v", broker.patience)
	}

	stalled := &fakeBroker{stalled: true}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := start(t, stalled).DeleteImportedKeyMaterial(ctx, testKeyID, "")
	if !errors.Is(err, OutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("sent, and not answered: %v", err)
	}

	past, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	_, err = client.DeleteImportedKeyMaterial(past, testKeyID, "")
	if errors.Is(err, OutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) || len(broker.calls) != 1 {
		t.Errorf("not sent: %v", err)
	}
}

// A late context does not know yet that its deadline has passed, as when its timer is late.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now(), true }

func TestNothingIsSentAfterTheDeadline(t *testing.T) {
	broker := &fakeBroker{}
	client := start(t, broker)

	_, deleting := client.DeleteImportedKeyMaterial(late{t.Context()}, testKeyID, "")
	_, importing := client.ImportWrapped(late{t.Context()}, testKeyID, []byte("w"), []byte("t"), forEver)

	for _, err := range []error{deleting, importing} {
		if errors.Is(err, OutcomeUnknown) || status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%v", err)
		}
	}
	if len(broker.calls) != 0 {
		t.Errorf("%v", broker.calls)
	}
}
