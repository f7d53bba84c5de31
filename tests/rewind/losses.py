"""How a state is lost, and what is put in its place: files put back as they were, or a cold restore
of a backup, or of the files themselves."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ratchetkeep import open_device
from ratchetkeep.backup import backup_device
from ratchetkeep.restore import cool_device, restore_device

from .story import GROUPS, US, Figures, Story

# The package has no types.
x25519: Any = import_module("pyrage").x25519

MESSAGES = 12


@dataclass
class Keeper:
    """What is kept of a story's device: backups, which ``identity`` opens, and snapshots; oldest
    first."""

    story: Story
    identity: Any = field(default_factory=x25519.Identity.generate)
    backups: list[Path] = field(default_factory=list)
    snapshots: list[Path] = field(default_factory=list)

    async def back_up(self) -> Path:
        """One more backup; a database gives one while its owner runs."""
        us = self.story.us
        file = self.story.folder / f"backup {len(self.backups) + 1}.age"
        needs_rest = not us.url.startswith("sqlite:")
        if needs_rest:
            await us.close()
        backup_device(us.url, file, recipients=[str(self.identity.to_public())])
        if needs_rest:
            await us.open()
        self.backups.append(file)
        return file

    async def take_snapshot(self) -> Path:
        """One more copy of the files."""
        self.snapshots.append(await self.story.save_files())
        return self.snapshots[-1]

    def restore(self, backup: Path, *, wipe: bool) -> None:
        """A cold restore; ``wipe`` removes all that is left of the device before it."""
        if wipe:
            shutil.rmtree(self.story.us.folder)
            self.story.us.folder.mkdir()
        own = self.story.folder / "identity"
        own.write_text(str(self.identity))
        own.chmod(0o600)
        restore_device(backup, self.story.us.url, identities=[own], overwrite=not wipe)

    def cool(self, snapshot: Path) -> None:
        """The files are put back, and then cooled where they are."""
        self.story.put_back(snapshot)
        cool_device(self.story.us.url)

    def check_cold(self) -> None:
        """Nothing that was on its way round the world is in the store."""
        given_out = self.story.exchange.ledger.pre_keys[US].keys()
        with open_device(self.story.us.url, read_only=True) as device:
            assert device.ids("session") == []
            assert device.ids("sender-key-memory") == []
            assert not given_out & set(map(int, device.ids("pre-key")))
            credentials = device.credentials
            users = {group.called(self.story.us.me).partition(":")[0] for group in GROUPS}
            kept = device.ids("sender-key")
            assert kept, "sender keys of others only read"
            assert not any(user in id for id in kept for user in users), "ours was kept"
        assert credentials.first_unuploaded_pre_key_id == credentials.next_pre_key_id
        assert credentials.next_pre_key_id not in given_out


async def go_on(story: Story) -> None:
    """After a restore: new pre-keys, talk, and everyone with everyone."""
    await story.us.open()
    if story.rng.random() < 0.5:
        await story.us.upload()
    await story.talk(MESSAGES)
    await story.everyone_speaks()


async def live_on_exactly(story: Story) -> Figures:
    """An older state goes on as if nothing had happened; what came of it."""
    await story.live(MESSAGES)
    await story.settle()
    keeper = Keeper(story)
    snapshot = await keeper.take_snapshot()
    await story.live(MESSAGES)
    await story.us.close()
    story.put_back(snapshot)
    figures = story.mark()
    await story.us.open()
    await story.us.upload()
    await story.talk(MESSAGES)
    await story.everyone_speaks()
    return figures()


async def lose_and_restore(story: Story, keeper: Keeper) -> Figures:
    """One round: life, a backup or a snapshot, life, a loss, a cold path of any kind, and on; what
    came of it, the loss included."""
    rng = story.rng
    await story.live(MESSAGES)
    if rng.random() < 0.3 or not keeper.snapshots:
        await keeper.take_snapshot()
    if rng.random() < 0.5 or not keeper.backups:
        await keeper.back_up()
    await story.live(MESSAGES)
    await story.us.close()
    figures = story.mark()
    await story.talk(MESSAGES // 4)
    if rng.random() < 0.5:
        await story.newcomer()
    if rng.random() < 0.3:
        keeper.cool(rng.choice(keeper.snapshots))
    else:
        keeper.restore(rng.choice(keeper.backups), wipe=rng.random() < 0.5)
    keeper.check_cold()
    await go_on(story)
    return figures()
