"""Contract tests: damage is never taken for absence, and nothing is minted over it."""
# ruff: noqa: S101

from __future__ import annotations

import pytest

from ratchetkeep import Device, StoreDamaged
from ratchetkeep.model import CREDENTIALS, FAMILIES, Credentials, Key

from ._hooks import Hooks, contents, leaked
from ._samples import record_id


def _secrets(credentials: Credentials) -> list[bytes]:
    return [
        credentials.noise_key.private,
        credentials.signed_identity_key.private,
        credentials.signed_pre_key.key_pair.private,
        credentials.adv_secret_key,
    ]


class DamageTests(Hooks):
    """Damage put there around the store."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_damaged_record_is_not_an_absent_one(
        self, device: Device, url: str, family: str
    ) -> None:
        """A damaged session would read as none: a client would build a new one over it."""
        self.fill(device)
        device.close()
        id = record_id(family, 1)
        raw = self.raw_get(url, Key(family, id))
        self.raw_corrupt(url, Key(family, id))
        with self.open(url) as again:
            for _ in range(2):
                with pytest.raises(StoreDamaged) as caught:
                    again.get(family, [record_id(family, 0), id])
                place = caught.value.place
                assert family in place
                assert leaked(caught.value, raw[20:60], raw[-30:]) == []
            assert id in again.ids(family)
            assert again.get(family, [record_id(family, 2)])
            with pytest.raises(StoreDamaged), again.transaction() as transaction:
                transaction.get(family, [id])

    @pytest.mark.parametrize("family", FAMILIES)
    def test_an_emptied_record_is_not_an_absent_one(
        self, device: Device, url: str, family: str
    ) -> None:
        """What a crash of another program leaves, a record of no bytes, would read as absent."""
        self.fill(device, 1)
        device.close()
        self.raw_put(url, Key(family, record_id(family, 0)), b"")
        with self.open(url) as again, pytest.raises(StoreDamaged):
            again.get(family, [record_id(family, 0)])

    def test_a_damaged_record_can_be_replaced_or_deleted(self, device: Device, url: str) -> None:
        """One damaged session would make the whole device useless."""
        self.fill(device)
        device.close()
        first, second = record_id("session", 0), record_id("session", 1)
        self.raw_corrupt(url, Key("session", first))
        self.raw_corrupt(url, Key("session", second))
        with self.open(url) as again:
            value = self.value("session", 5, again)
            again.set({"session": {first: value, second: None}})
        with self.open(url) as again:
            assert again.get("session", [first, second]) == {first: value}

    @pytest.mark.parametrize("rest", [0, 1, 40, 0.5, 0.99])
    def test_damaged_credentials_are_never_replaced(
        self, device: Device, url: str, rest: float
    ) -> None:
        """A truncated file would be read as "no credentials", and a new identity minted over it."""
        self.fill(device, 1)
        secrets = _secrets(device.credentials)
        device.close()
        raw = self.raw_get(url, CREDENTIALS)
        cut = raw[: rest if isinstance(rest, int) else int(len(raw) * rest)]
        self.raw_put(url, CREDENTIALS, cut)
        for create, read_only in ((False, False), (True, False), (False, True)):
            with pytest.raises(StoreDamaged) as caught:
                self.open(url, create=create, read_only=read_only)
            assert "cred" in caught.value.place
            assert leaked(caught.value, *secrets) == []
        assert self.raw_get(url, CREDENTIALS) == cut
        self.raw_put(url, CREDENTIALS, raw)
        with self.open(url) as again:
            assert _secrets(again.credentials) == secrets

    def test_credentials_that_are_gone_are_not_made_anew(self, device: Device, url: str) -> None:
        """A device whose credentials were lost would be replaced by a new one, for good."""
        self.fill(device)
        device.close()
        raw = self.raw_get(url, CREDENTIALS)
        self.raw_put(url, CREDENTIALS, None)
        for create, read_only in ((True, False), (False, False), (False, True)):
            with pytest.raises(StoreDamaged):
                self.open(url, create=create, read_only=read_only)
        self.raw_put(url, CREDENTIALS, raw)
        with self.open(url) as again:
            assert all(len(members) == 3 for members in contents(again).values())
