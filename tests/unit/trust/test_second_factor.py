"""Codes of the second factor: against the RFCs' own vectors, good for a minute and a half, and each once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.trust import second_factor as totp

RFC = b"12345678901234567890"  # RFC 4226, appendix D, and RFC 6238, appendix B
STEP_US = totp.STEP_S * 1_000_000


def test_codes_are_those_of_the_rfcs():
    codes = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]
    assert [totp.code_at(RFC, step) for step in range(10)] == codes
    # RFC 6238 gives eight digits; six are their end.
    for second, eight in ((59, "94287082"), (1_111_111_109, "07081804"), (20_000_000_000, "65353130")):
        assert totp.code_at(RFC, totp.step_of(second * 1_000_000)) == eight[-6:]


@given(at=st.integers(10, 10**8), off=st.integers(-5, 5))
def test_a_code_is_good_in_its_half_minute_and_the_ones_beside_it(at, off):
    code = totp.code_at(RFC, at + off)
    near = {totp.code_at(RFC, at + k) for k in (-1, 0, 1)}
    found = totp.fitting_step(RFC, code, now_us=at * STEP_US + 7, after=0)
    assert (found is not None) == (code in near)


def test_a_code_opens_once_and_an_older_one_not_after_it():
    now_us = 1000 * STEP_US
    assert totp.fitting_step(RFC, totp.code_at(RFC, 1000), now_us=now_us, after=999) == 1000
    assert totp.fitting_step(RFC, totp.code_at(RFC, 1000), now_us=now_us, after=1000) is None
    assert totp.fitting_step(RFC, totp.code_at(RFC, 999), now_us=now_us, after=1000) is None


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "-12345", "١٢٣٤٥٦", "1 2 3"])
def test_what_is_no_code_fits_never(code):
    assert totp.fitting_step(RFC, code, now_us=0, after=-9) is None


def test_people_may_type_a_code_in_groups():
    code = totp.code_at(RFC, 50)
    assert totp.fitting_step(RFC, f" {code[:3]} {code[3:]}", now_us=50 * STEP_US, after=0) == 50


def test_the_address_is_what_apps_read():
    found = totp.address(RFC, person="ada", site="St. Mary & Co")
    assert found == (
        "otpauth://totp/Wardround%20St.%20Mary%20%26%20Co:ada?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
        "&issuer=Wardround%20St.%20Mary%20%26%20Co"
    )
    assert totp.secret_text(RFC).startswith("GEZD GNBV")


def test_a_recovery_code_is_used_up():
    codes = totp.new_recovery_codes()
    assert len(set(codes)) == totp.RECOVERY_CODES
    kept = tuple(map(totp.recovery_digest, codes))
    left = totp.without(kept, codes[3].upper().replace("-", " "))
    assert left is not None
    assert set(kept) - set(left) == {kept[3]}
    assert totp.without(left, codes[3]) is None
    assert totp.without(kept, "") is None
