"""The rules of the cache."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from keybroker import errors
from keybroker.model import (
    Caller,
    ImportRequest,
    KeyArn,
    KeyFacts,
    SecretBytes,
    Sharing,
    Source,
    WrappingAlgorithm,
    WrappingChoice,
    WrappingKeySpec,
)
from tests.clock import settle
from tests.fake_kms import HOME, key_arn

if TYPE_CHECKING:
    from keybroker.model import ParameterSet
    from tests.unit.conftest import Bench, BenchMaker

KEY = key_arn()
SMALLER = WrappingChoice(algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_256, key_spec=WrappingKeySpec.RSA_2048)
ANY = WrappingChoice()


def _import_of(parameters: ParameterSet, key: KeyArn = KEY, length: int = 512) -> ImportRequest:
    return ImportRequest(
        key_id=str(key),
        import_token=parameters.import_token,
        encrypted_key_material=SecretBytes(b"\xff" * length),
        valid_to=None,
        import_type=None,
        key_material_id=None,
        key_material_description=None,
    )


async def _import(bench: Bench, parameters: ParameterSet, key: KeyArn = KEY) -> None:
    caller = Caller(name="alice", listener="unix:/x")
    await bench.broker.import_key_material(caller, _import_of(parameters, key), bench.clock.monotonic() + 60)


async def test_second_request_is_answered_from_the_cache(bench: Bench) -> None:
    """One KMS call; the same set, and it says where it came from."""
    first, first_source = await bench.get(KEY)
    second, second_source = await bench.get(KEY)

    assert first is second
    assert (Source.KMS, Source.CACHE) == (first_source, second_source)
    assert len(bench.kms.issued) == 1


async def test_many_concurrent_callers_cause_one_call(bench: Bench) -> None:
    """Everyone who asks while the fetch is under way joins it, and is told KMS."""
    bench.kms.gate.clear()
    callers = [asyncio.ensure_future(bench.get(KEY, caller=f"caller {n}")) for n in range(1000)]
    await settle()
    bench.kms.gate.set()

    answers = await asyncio.gather(*callers)

    assert len(bench.kms.issued) == 1
    assert len(bench.kms.described) == 1
    assert {(bench.kms.issued[0].import_token, Source.KMS)} == {(p.import_token, source) for p, source in answers}


async def test_the_first_callers_cancel_fails_nobody_else(bench: Bench) -> None:
    """The fetch belongs to the broker."""
    bench.kms.gate.clear()
    first, *others = [asyncio.ensure_future(bench.get(KEY)) for _ in range(4)]
    await settle()

    first.cancel()
    await settle()
    bench.kms.gate.set()
    answers = await asyncio.gather(*others)

    assert first.cancelled()
    assert len(bench.kms.issued) == 1
    assert len({id(parameters) for parameters, _ in answers}) == 1


async def test_a_fetch_all_have_left_fills_the_cache(bench: Bench) -> None:
    """The quota is spent already, so the next caller has the set."""
    bench.kms.gate.clear()
    only = asyncio.ensure_future(bench.get(KEY))
    await settle()

    only.cancel()
    await settle()
    bench.kms.gate.set()
    await settle()
    _, source = await bench.get(KEY)

    assert source is Source.CACHE
    assert len(bench.kms.issued) == 1


async def test_a_failing_fetch_fails_all_alike_and_is_not_cached(bench: Bench) -> None:
    """Every waiter gets the failure, the next caller a new fetch."""
    bench.kms.gate.clear()
    bench.kms.fail("get_parameters_for_import", errors.KmsUnavailable(retry_after=1))
    callers = [asyncio.ensure_future(bench.get(KEY)) for _ in range(20)]
    await settle()
    bench.kms.gate.set()

    answers = await asyncio.gather(*callers, return_exceptions=True)
    _, source = await bench.get(KEY)

    assert {errors.KmsUnavailable} == {type(answer) for answer in answers}
    assert source is Source.KMS
    assert len(bench.kms.issued) == 2


async def test_an_import_consumes_the_set(bench: Bench) -> None:
    """After a successful import the next caller gets another set."""
    first, _ = await bench.get(KEY)

    await _import(bench, first)
    second, source = await bench.get(KEY)

    assert source is Source.KMS
    assert first.import_token != second.import_token


async def test_reuse_until_expiry_keeps_an_imported_set(make_bench: BenchMaker) -> None:
    """The setting relaxes consumption, and nothing else."""
    bench = make_bench(reuse_until_expiry=True)
    first, _ = await bench.get(KEY)

    await _import(bench, first)
    second, source = await bench.get(KEY)

    assert source is Source.CACHE
    assert first is second


@pytest.mark.parametrize(
    ("failure", "kept"),
    [
        (errors.ImportTokenInvalid(), False),
        (errors.ImportTokenExpired(), False),
        (errors.KeyMaterialMismatch(), False),
        (errors.OutcomeUnknown(), False),
        (errors.KeyMaterialUnreadable(), True),
        (errors.KmsUnavailable(retry_after=1), True),
        (errors.KmsThrottled(retry_after=1), True),
    ],
)
async def test_a_failed_import_ends_the_set_only_where_kms_would_refuse_it(
    bench: Bench, failure: errors.BrokerError, kept: bool
) -> None:
    """A set that KMS has refused, or may have taken, is forgotten; one it never looked at is kept."""
    first, _ = await bench.get(KEY)
    bench.kms.fail("import_key_material", failure)

    with pytest.raises(type(failure)):
        await _import(bench, first)
    _, source = await bench.get(KEY)

    assert kept == (source is Source.CACHE)


async def test_an_import_completes_without_its_caller(bench: Bench) -> None:
    """A caller that leaves in mid-import does not stop it, and the set is consumed all the same."""
    first, _ = await bench.get(KEY)
    bench.kms.gate.clear()
    leaving = asyncio.ensure_future(_import(bench, first))
    await settle()

    leaving.cancel()
    await settle()
    bench.kms.gate.set()
    await settle()
    _, source = await bench.get(KEY)

    assert [first.import_token] == bench.kms.imported
    assert source is Source.KMS


async def test_a_set_consumed_before_a_waiter_wakes_is_not_handed_to_it(bench: Bench) -> None:
    """Between the fetch's end and the caller's turn to run, another caller may have imported."""
    bench.kms.gate.clear()
    waiter = asyncio.ensure_future(bench.get(KEY))
    await settle()
    bench.kms.gate.set()
    while not bench.kms.issued or bench.broker.regions["us-east-1"].parameters.find(KEY, b"token 0") is None:
        await asyncio.sleep(0)
    assert not waiter.done()
    await bench.broker.discard(Caller(name="bob", listener="unix:/x"), str(KEY), b"token 0")

    parameters, _ = await waiter

    assert parameters.import_token == b"token 1"


async def test_a_discarded_set_is_never_handed_out_again(bench: Bench) -> None:
    """The reporter's word is enough; another key's token changes nothing."""
    first, _ = await bench.get(KEY)
    caller = Caller(name="alice", listener="unix:/x")

    await bench.broker.discard(caller, str(key_arn(2)), first.import_token)
    _, after_other = await bench.get(KEY)
    await bench.broker.discard(caller, str(KEY), first.import_token)
    _, after_own = await bench.get(KEY)

    assert (Source.CACHE, Source.KMS) == (after_other, after_own)


@pytest.mark.parametrize("supersede", [True, False])
async def test_a_newer_set_of_a_key_supersedes_the_older(make_bench: BenchMaker, supersede: bool) -> None:
    """KMS may end a key's older sets when it issues a newer one, so by default they are not handed out."""
    bench = make_bench(supersede=supersede)
    await bench.get(KEY)
    await bench.get(key_arn(2))

    await bench.get(KEY, wrapping=SMALLER)
    _, same_key = await bench.get(KEY)
    _, other_key = await bench.get(key_arn(2))

    assert same_key is (Source.KMS if supersede else Source.CACHE)
    assert other_key is Source.CACHE


async def test_a_set_possibly_superseded_is_not_handed_out(bench: Bench) -> None:
    """Where no answer came, KMS may have issued a newer set all the same; where it plainly refused, it did not."""
    await bench.get(KEY)
    bench.kms.fail("get_parameters_for_import", errors.KmsThrottled(retry_after=1))
    with pytest.raises(errors.KmsThrottled):
        await bench.get(KEY, wrapping=SMALLER)
    _, after_refusal = await bench.get(KEY)

    await bench.clock.advance(10)
    bench.kms.fail("get_parameters_for_import", errors.KmsUnavailable(retry_after=1, unanswered=True))
    with pytest.raises(errors.KmsUnavailable):
        await bench.get(KEY, wrapping=SMALLER)
    _, after_silence = await bench.get(KEY)

    assert (Source.CACHE, Source.KMS) == (after_refusal, after_silence)


async def test_one_keys_sets_are_issued_one_after_the_other(bench: Bench) -> None:
    """Two slots of a key at once: the second request leaves when the first is answered, so the newer is known."""
    bench.kms.gate.clear()
    both = [asyncio.ensure_future(bench.get(KEY)), asyncio.ensure_future(bench.get(KEY, wrapping=SMALLER))]
    await bench.clock.advance(1)
    sent_before_the_first_answer = len(bench.kms.issued)
    bench.kms.gate.set()
    await bench.clock.advance(1)
    await asyncio.gather(*both)

    _, older = await bench.get(KEY)

    assert sent_before_the_first_answer == 1
    assert older is Source.KMS


async def test_an_exclusive_set_is_given_to_no_one_else(bench: Bench) -> None:
    """Neither the cache nor a concurrent caller sees it, nor a second exclusive caller."""
    shared, _ = await bench.get(KEY)
    first, source = await bench.get(KEY, sharing=Sharing.EXCLUSIVE)
    await bench.clock.advance(1)
    second, _ = await bench.get(KEY, sharing=Sharing.EXCLUSIVE)
    await bench.clock.advance(1)
    later, _ = await bench.get(KEY)

    assert source is Source.KMS
    assert len({shared.import_token, first.import_token, second.import_token, later.import_token}) == 4


async def test_a_set_with_too_little_left_is_fetched_anew(bench: Bench) -> None:
    """At least min_remaining is left of what is handed out, whether the setting or the request asks for it."""
    await bench.get(KEY)

    await bench.clock.advance(12 * 3600)
    _, enough = await bench.get(KEY, min_remaining=11 * 3600)
    _, asks_more = await bench.get(KEY, min_remaining=13 * 3600)
    await bench.clock.advance(23 * 3600 + 1)
    _, by_setting = await bench.get(KEY, min_remaining=0)

    assert (Source.CACHE, Source.KMS, Source.KMS) == (enough, asks_more, by_setting)


@pytest.mark.parametrize("jump", [-48 * 3600.0, -3600.0, 23.5 * 3600, 48 * 3600.0])
async def test_no_jump_of_the_wall_clock_makes_an_expired_set_look_fresh(bench: Bench, jump: float) -> None:
    """Set back, the monotonic clock still tells; set forward, the wall clock does."""
    await bench.get(KEY)
    await bench.clock.advance(23.5 * 3600 if jump < 0 else 1)

    bench.clock.jump(jump)
    _, source = await bench.get(KEY)

    assert source is Source.KMS


async def test_a_new_set_too_short_for_the_request_is_an_error_not_a_loop(bench: Bench) -> None:
    """KMS gives 24 h; a KMS that gives less is told apart, and asked once."""
    bench.kms.validity = timedelta(hours=2)

    with pytest.raises(errors.KmsBadResponse):
        await bench.get(KEY, min_remaining=3 * 3600)

    assert len(bench.kms.issued) == 1


async def test_the_least_recently_used_goes_first(make_bench: BenchMaker) -> None:
    """The cache is bounded, and reading keeps a set in it."""
    bench = make_bench(max_entries=2)
    for number in (1, 2):
        await bench.get(key_arn(number))
        await bench.clock.advance(1)
    await bench.get(key_arn(1))
    await bench.get(key_arn(3))
    await bench.clock.advance(1)

    _, kept = await bench.get(key_arn(1))
    _, gone = await bench.get(key_arn(2))

    assert (Source.CACHE, Source.KMS) == (kept, gone)


async def test_mrk_ids_do_not_collide_across_regions(bench: Bench) -> None:
    """The same multi-Region key id in two Regions is two keys."""
    here = KeyArn.parse("mrk-1234567890abcdef1234567890abcdef", HOME)
    there = KeyArn.parse(str(here).replace("us-east-1", "eu-west-1"), HOME)
    await bench.get(here)

    _, source = await bench.get(there)

    assert source is Source.KMS


async def test_a_deadline_shorter_than_the_wait_is_refused_at_once(make_bench: BenchMaker) -> None:
    """The refusal tells how long the wait is, costs no token, and leaves no fetch behind."""
    bench = make_bench(rate=0.25)
    await bench.get(key_arn(1))

    with pytest.raises(errors.QuotaWaitExceedsDeadline) as told:
        await bench.get(key_arn(2), patience=3)
    await bench.clock.advance(20)

    assert told.value.retry_after == pytest.approx(4)
    assert len(bench.kms.issued) == 1


async def test_those_who_line_up_together_learn_their_waits_together(make_bench: BenchMaker) -> None:
    """Twenty new keys at once: each is told as soon as its place is known, not when its deadline passes."""
    bench = make_bench(rate=1.0)
    callers = [asyncio.ensure_future(bench.get(key_arn(n), patience=4.5)) for n in range(20)]
    await settle()

    refused = [caller.exception() for caller in callers if caller.done() and caller.exception()]
    await bench.clock.advance(6)
    served = [caller for caller in callers if not caller.exception()]

    assert len(refused) == 15
    assert {errors.QuotaWaitExceedsDeadline} == {type(refusal) for refusal in refused}
    assert len(served) == 5
    assert len(bench.kms.issued) == 5


async def test_a_patient_caller_keeps_the_fetch_an_impatient_one_started(make_bench: BenchMaker) -> None:
    """The impatient joiner is refused at once; the fetch goes on for the other."""
    bench = make_bench(rate=1.0)
    await bench.get(key_arn(1))
    patient = asyncio.ensure_future(bench.get(key_arn(2), patience=10))
    await settle()

    with pytest.raises(errors.QuotaWaitExceedsDeadline):
        await bench.get(key_arn(2), patience=0.5)
    await bench.clock.advance(2)

    assert patient.done()
    assert patient.exception() is None


async def test_throttling_tells_when_to_come_back_and_slows_down(make_bench: BenchMaker) -> None:
    """KMS_THROTTLED carries at least the time until the next token at the halved rate."""
    bench = make_bench(rate=0.25)
    bench.kms.fail("get_parameters_for_import", errors.KmsThrottled(retry_after=1))

    with pytest.raises(errors.KmsThrottled) as told:
        await bench.get(KEY)

    assert told.value.retry_after == pytest.approx(8)
    assert bench.quota.expected_wait("bob") == pytest.approx(8)


@pytest.mark.parametrize(
    ("prepare", "refusal", "remembered"),
    [
        ("not found", errors.KeyNotFound, 10),
        ("not external", errors.KeyNotExternal, 60),
        ("pending deletion", errors.KeyStateIncompatible, 10),
    ],
)
async def test_a_bad_key_spends_no_quota_and_is_remembered_briefly(
    bench: Bench, prepare: str, refusal: type[errors.BrokerError], remembered: float
) -> None:
    """DescribeKey finds it out; a loop over it asks KMS once in a while, and a mended key is served soon."""
    match prepare:
        case "not found":
            bench.kms.fail("describe_key", errors.KeyNotFound())
        case "not external":
            bench.kms.facts[KEY] = KeyFacts(external=False, key_spec="SYMMETRIC_DEFAULT")
        case _:
            bench.kms.states[KEY] = "PendingDeletion"

    for _ in range(100):
        with pytest.raises(refusal):
            await bench.get(KEY)
    asked = len(bench.kms.described)
    bench.kms.facts.clear()
    bench.kms.states.clear()
    await bench.clock.advance(remembered + 0.1)
    _, source = await bench.get(KEY)

    assert asked == 1
    assert source is Source.KMS
    assert len(bench.kms.issued) == 1


async def test_unspecified_is_resolved_by_the_keys_own_spec(bench: Bench) -> None:
    """RSA keys get RSA_AES_KEY_WRAP, symmetric ones OAEP; the explicit spelling of the same slot shares its set."""
    bench.kms.facts[KEY] = KeyFacts(external=True, key_spec="RSA_2048")

    rsa, _ = await bench.get(KEY, wrapping=ANY)
    symmetric, _ = await bench.get(key_arn(2), wrapping=ANY)
    _, shared = await bench.get(key_arn(2))

    assert str(rsa.slot.wrapping) == "RSA_AES_KEY_WRAP_SHA_256/RSA_4096"
    assert str(symmetric.slot.wrapping) == "RSAES_OAEP_SHA_256/RSA_4096"
    assert shared is Source.CACHE


async def test_an_unsuitable_wrapping_spends_no_quota(bench: Bench) -> None:
    """An RSA key cannot be wrapped with OAEP; the refusal says what can."""
    bench.kms.facts[KEY] = KeyFacts(external=True, key_spec="RSA_4096")

    with pytest.raises(errors.WrappingUnsuitable) as told:
        await bench.get(KEY)

    assert "RSA_AES_KEY_WRAP_SHA_256/RSA_4096" in told.value.metadata["suitable"]
    assert bench.kms.issued == []


async def test_without_describe_key_the_broker_goes_on_and_says_so_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A role without kms:DescribeKey loses the early refusals, not the service."""
    bench.kms.fail("describe_key", *[errors.KmsDeniedBroker() for _ in range(4)])

    explicit, _ = await bench.get(KEY)
    unspecified, _ = await bench.get(key_arn(2), wrapping=ANY)

    assert explicit.slot.key == KEY
    assert str(unspecified.slot.wrapping) == "RSAES_OAEP_SHA_256/RSA_4096"
    assert sum("DescribeKey" in record.getMessage() for record in caplog.records) == 1


async def test_the_state_is_asked_anew_for_every_fetch(bench: Bench) -> None:
    """Facts are kept, the state is not: a key that went to deletion spends no quota."""
    parameters, _ = await bench.get(KEY)
    await _import(bench, parameters)
    bench.kms.states[KEY] = "PendingDeletion"

    with pytest.raises(errors.KeyStateIncompatible):
        await bench.get(KEY)

    assert len(bench.kms.issued) == 1


async def test_an_exclusive_caller_that_leaves_the_line_spends_nothing(make_bench: BenchMaker) -> None:
    """Nobody else could use the set, so the fetch ends with its caller."""
    bench = make_bench(rate=1.0)
    await bench.get(key_arn(1))
    leaving = asyncio.ensure_future(bench.get(key_arn(2), sharing=Sharing.EXCLUSIVE))
    await settle()

    leaving.cancel()
    await bench.clock.advance(5)

    assert leaving.cancelled()
    assert len(bench.kms.issued) == 1


async def test_what_is_known_of_a_key_in_use_is_not_forgotten(make_bench: BenchMaker) -> None:
    """Others come and go; its set is handed out without a question to KMS, which may be down by then."""
    bench = make_bench(max_entries=2)
    used = key_arn(1)
    await bench.get(used, wrapping=WrappingChoice())
    for other in range(2, 6):
        await bench.get(key_arn(other), wrapping=WrappingChoice())
        await bench.get(used, wrapping=WrappingChoice())

    assert bench.kms.described.count(used) == 1
