// Continues a stored conversation with the real library, and reports what still works.
//
//   node converse.mjs --alice DIR --bob DIR --pending FILE [--ids FILE] [--skip-ids] [--skip A,B]
//   node converse.mjs --alice DIR --bob DIR --legacy
//
// Both folders are written to: pass copies. Stdout is one JSON document, {ok, steps: [{name, ok,
// detail}]}; the exit code is 0 only if every step passed, 1 if one failed, 2 for a wrong call.

import { Peer, describeError, isKeyPair, isSignedPreKeyValid, jidOfAddress } from './peer.mjs';

import { readFileSync, statSync } from 'node:fs';
import { parseArgs } from 'node:util';

const LEGACY_GROUP = '120363025246125486@g.us';
const STRANGER = '555000111222333:3@lid';
const TIME_LIMIT_MS = 90_000;

/** A failed expectation. Its text is written here, so it is shown as it is. */
class Unmet extends Error {}

function expect(condition, text) {
  if (!condition) throw new Unmet(text);
}

async function expectRefused(action, text) {
  try {
    await action();
  } catch (error) {
    return describeError(error);
  }
  throw new Unmet(text);
}

const steps = [];
const planned = [];

function plan(name, run) {
  planned.push({ name, run });
}

function finish(code, document) {
  process.stdout.write(`${JSON.stringify(document)}\n`, () => process.exit(code));
}

function report() {
  const ok = steps.length > 0 && steps.every((step) => step.ok);
  finish(ok ? 0 : 1, { ok, steps });
}

function reject(text) {
  finish(2, { ok: false, steps: [{ name: 'arguments', ok: false, detail: text }] });
}

async function runPlanned(skipped) {
  for (const { name, run } of planned) {
    if (skipped.has(name)) {
      steps.push({ name, ok: true, detail: 'skipped' });
      continue;
    }
    try {
      steps.push({ name, ok: true, detail: (await run()) ?? '' });
    } catch (error) {
      const detail = error instanceof Unmet ? error.message : describeError(error);
      steps.push({ name, ok: false, detail });
    }
  }
}

// -- steps ---------------------------------------------------------------------------------------

function checkIdentity(peer, expected) {
  const { creds } = peer;
  const identity = Buffer.from(creds.signedIdentityKey.public).toString('base64');
  if (expected) {
    expect(identity === expected.identity, 'the folder holds another identity key');
    expect(creds.registrationId === expected.registrationId, 'the registration id differs');
    expect(creds.me?.id === expected.pn, 'the phone number JID differs');
    expect(creds.me?.lid === expected.lid, 'the LID JID differs');
  }
  for (const pair of ['noiseKey', 'pairingEphemeralKeyPair', 'signedIdentityKey']) {
    expect(isKeyPair(creds[pair]), `${pair} is not a key pair`);
  }
  expect(isKeyPair(creds.signedPreKey.keyPair), 'the signed pre-key is not a key pair');
  expect(isSignedPreKeyValid(creds), 'the signed pre-key is not signed by the identity');
}

/** The session each side holds must name the other side's identity and registration id. */
async function checkMutual(one, other, otherJid) {
  const address = one.repository.jidToSignalProtocolAddress(otherJid);
  const record = await one.key('session', address);
  expect(record, `${one.name} has no session with ${other.name}`);
  const open = Object.values(record._sessions).find((entry) => entry.indexInfo.closed === -1);
  expect(open, `${one.name} has no open session with ${other.name}`);
  expect(
    open.indexInfo.remoteIdentityKey === other.identity().toString('base64'),
    `${one.name} knows another identity of ${other.name}`,
  );
  expect(
    open.registrationId === other.creds.registrationId,
    `${one.name} knows another registration id of ${other.name}`,
  );
}

const isBytes = (value, length) =>
  value instanceof Uint8Array && (length === undefined || value.length === length);
const isText = (value) => typeof value === 'string' && value.length > 0;

/** What the library's callers need of a value of each family. */
const SHAPES = {
  'pre-key': (value) => isKeyPair(value),
  session: (value) => value.version === 'v1' && Object.keys(value._sessions).length > 0,
  'identity-key': (value) => isBytes(value, 33),
  'sender-key': (value) => {
    const states = JSON.parse(Buffer.from(value).toString('utf8'));
    return isBytes(value) && Array.isArray(states) && states.length > 0;
  },
  'sender-key-memory': (value) => Object.values(value).every((flag) => typeof flag === 'boolean'),
  'app-state-sync-key': (value) => isBytes(value.keyData, 32),
  'app-state-sync-version': (value) =>
    Number.isInteger(value.version) &&
    isBytes(value.hash, 128) &&
    Object.values(value.indexValueMap).every((entry) => isBytes(entry.valueMac, 32)),
  'lid-mapping': isText,
  'device-list': (value) => Array.isArray(value) && value.every(isText),
  tctoken: (value) => isBytes(value.token),
};

async function checkIds(peer, families) {
  let count = 0;
  for (const [family, ids] of Object.entries(families)) {
    const found = await peer.store.get(family, ids);
    for (const id of ids) {
      expect(found[id] !== null && found[id] !== undefined, `${family} ${id} is missing`);
      expect(SHAPES[family]?.(found[id]), `${family} ${id} has the wrong shape`);
      count += 1;
    }
  }
  expect(count > 0, 'no id was given');
  return `${count} values`;
}

async function checkAppStateKeys(peer, ids) {
  expect(ids.length > 0, 'no id was given');
  const found = await peer.keys.get('app-state-sync-key', ids);
  for (const id of ids) {
    expect(found[id], `app-state-sync-key ${id} is missing`);
    expect(isBytes(found[id].keyData, 32), `app-state-sync-key ${id} has no key`);
  }
  return `${ids.length} keys`;
}

/** Every stored session must be one that the library opens and sends on. */
async function checkSessions(peer) {
  const addresses = peer.plainIds('session');
  expect(addresses.length > 0, 'no session is stored');
  const fork = peer.fork();
  for (const address of addresses) {
    const jid = jidOfAddress(address);
    const { exists } = await fork.repository.validateSession(jid);
    expect(exists, `session ${address} is not usable`);
    await fork.encrypt(jid, 'probe');
  }
  return `${addresses.length} sessions`;
}

async function readPendingDirect(peer, messages) {
  expect(messages.length > 0, 'no message was given');
  for (const { from, kind, data, text } of messages) {
    const message = Buffer.from(data, 'base64');
    expect((await peer.decrypt(from, kind, message)) === text, `"${text}" reads differently`);
    await expectRefused(() => peer.decrypt(from, kind, message), `"${text}" was read twice`);
  }
  return `${messages.length} messages`;
}

/** Late group messages; see forkReadingSkipped for why the library needs help with them. */
async function readPendingGroup(peer, messages) {
  expect(messages.length > 0, 'no message was given');
  let helped = 0;
  for (const { group, from, data, text } of messages) {
    const message = Buffer.from(data, 'base64');
    let reader = peer;
    let plain;
    try {
      plain = await peer.decryptGroup(group, from, message);
    } catch (error) {
      if (!/^Expected Buffer instead of/.test(error.message)) throw error;
      reader = await peer.forkReadingSkipped(group, from);
      plain = await reader.decryptGroup(group, from, message);
      helped += 1;
    }
    expect(plain === text, `"${text}" reads differently`);
    const again = () => reader.decryptGroup(group, from, message);
    await expectRefused(again, `"${text}" was read twice`);
  }
  return `${messages.length} messages, ${helped} with respelled bytes`;
}

/** On a fork: a late message for a closed session spoils the open one in this library version. */
async function readClosed(peer, { from, kind, data, text }) {
  const message = Buffer.from(data, 'base64');
  const plain = await peer.fork().decrypt(from, kind, message);
  expect(plain === text, 'the message reads differently');
}

async function refuseTampered(alice, bob, jids) {
  const { type, ciphertext } = await alice.fork().encrypt(jids.bob, 'to be changed');
  const spoilt = Buffer.from(ciphertext);
  spoilt[spoilt.length - 1] ^= 1;
  const read = (message) => bob.fork().decrypt(jids.alice, type, message);
  expect((await read(ciphertext)) === 'to be changed', 'the untouched message was refused');
  return expectRefused(() => read(spoilt), 'a changed message was accepted');
}

/** Both directions by turns, so that each side steps its ratchet several times. */
async function talk(alice, bob, jids) {
  let count = 0;
  const send = async (from, to, text) => {
    const { type, ciphertext } = await from.encrypt(to === bob ? jids.bob : jids.alice, text);
    expect(type === 'msg', 'a new session was started instead of continuing the stored one');
    return { from, to, type, ciphertext, text };
  };
  const receive = async ({ from, to, type, ciphertext, text }) => {
    const author = from === alice ? jids.alice : jids.bob;
    expect((await to.decrypt(author, type, ciphertext)) === text, `"${text}" reads differently`);
    count += 1;
  };

  const first = await send(alice, bob, 'alice 1');
  await receive(first);
  await receive(await send(bob, alice, 'bob 1'));
  const [second, third, fourth] = [
    await send(alice, bob, 'alice 2'),
    await send(alice, bob, 'alice 3'),
    await send(alice, bob, 'alice 4'),
  ];
  await receive(third);
  const [bobSecond, bobThird] = [await send(bob, alice, 'bob 2'), await send(bob, alice, 'bob 3')];
  await receive(bobThird);
  await receive(await send(alice, bob, 'alice 5'));
  await receive(second);
  await receive(bobSecond);
  await receive(fourth);
  await receive(await send(bob, alice, 'bob 4'));
  for (const { from, to, type, ciphertext } of [third, bobThird]) {
    const author = from === alice ? jids.alice : jids.bob;
    await expectRefused(() => to.decrypt(author, type, ciphertext), 'a message was read twice');
  }
  return `${count} messages`;
}

async function talkInGroup(group, alice, bob, jids) {
  const pairs = [
    [alice, bob, jids.alice],
    [bob, alice, jids.bob],
  ];
  let count = 0;
  let last;
  for (let round = 1; round <= 3; round += 1) {
    for (const [from, to, author] of pairs) {
      const text = `${from.name} to the group, ${round}`;
      const message = await from.encryptGroup(group, author, text);
      const plain = await to.decryptGroup(group, author, message);
      expect(plain === text, `"${text}" reads differently`);
      count += 1;
      last = () => to.decryptGroup(group, author, message);
    }
  }
  await expectRefused(last, 'a group message was read twice');
  return `${count} messages`;
}

/** A stranger opens a session through a one-time pre-key, which must be used up by it. */
async function meetStranger(peer, jid, preKeyId) {
  const file = `pre-key-${preKeyId}.json`;
  expect(peer.hasFile(file), `pre-key ${preKeyId} is not stored`);
  const stranger = Peer.fresh('stranger');
  await stranger.repository.injectE2ESession({ jid, session: await peer.bundle(preKeyId) });

  const hello = await stranger.encrypt(jid, 'hello');
  expect(hello.type === 'pkmsg', 'the first message opens no session');
  const plain = await peer.decrypt(STRANGER, hello.type, hello.ciphertext);
  expect(plain === 'hello', 'the first message reads differently');
  expect(!peer.hasFile(file), `pre-key ${preKeyId} was not used up`);

  const answer = await peer.encrypt(STRANGER, 'who is there');
  expect(answer.type === 'msg', 'the answer opens a session of its own');
  const read = await stranger.decrypt(jid, answer.type, answer.ciphertext);
  expect(read === 'who is there', 'the answer reads differently');

  const next = await stranger.encrypt(jid, 'me');
  expect((await peer.decrypt(STRANGER, next.type, next.ciphertext)) === 'me', 'the reply was lost');

  await expectRefused(() => peer.bundle(preKeyId), 'the used pre-key is still offered');
  return `pre-key ${preKeyId}`;
}

// -- main ----------------------------------------------------------------------------------------

function readArguments() {
  const { values } = parseArgs({
    options: {
      alice: { type: 'string' },
      bob: { type: 'string' },
      pending: { type: 'string' },
      ids: { type: 'string' },
      'skip-ids': { type: 'boolean', default: false },
      skip: { type: 'string', default: '' },
      legacy: { type: 'boolean', default: false },
    },
  });
  for (const side of ['alice', 'bob']) {
    // The library would make a missing folder and a new identity in it.
    if (!values[side] || !statSync(values[side]).isDirectory()) {
      throw new Error(`no --${side} folder`);
    }
  }
  if (!values.legacy && !values.pending) throw new Error('no --pending file');
  return values;
}

const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'));

/** The state before anything was sent; none of these steps changes a folder. */
function planStored(alice, bob, jids, pending, ids) {
  plan('identity-alice', () => checkIdentity(alice, pending?.alice));
  plan('identity-bob', () => checkIdentity(bob, pending?.bob));
  plan('known-to-each-other', async () => {
    await checkMutual(alice, bob, jids.bob);
    await checkMutual(bob, alice, jids.alice);
  });
  if (ids) {
    plan('ids-alice', () => checkIds(alice, ids.alice));
    plan('ids-bob', () => checkIds(bob, ids.bob));
  }
  if (pending) {
    plan('app-state-keys-alice', () => checkAppStateKeys(alice, pending.appStateKeyIds));
    plan('app-state-keys-bob', () => checkAppStateKeys(bob, pending.appStateKeyIds));
  }
  plan('sessions-alice', () => checkSessions(alice));
  plan('sessions-bob', () => checkSessions(bob));
  plan('tampered-refused', () => refuseTampered(alice, bob, jids));
  if (pending) plan('closed-session', () => readClosed(bob, pending.closed));
}

/** Messages that were on their way when the folders were copied. */
function planPending(peer, pending) {
  const mine = pending.pending.filter((message) => message.to === peer.name);
  const direct = mine.filter((message) => message.kind !== 'group');
  const group = mine.filter((message) => message.kind === 'group');
  plan(`pending-direct-${peer.name}`, () => readPendingDirect(peer, direct));
  plan(`pending-group-${peer.name}`, () => readPendingGroup(peer, group));
}

function planNew(alice, bob, jids, groups, preKeys) {
  plan('direct', () => talk(alice, bob, jids));
  for (const group of groups) {
    plan(`group-${group}`, () => talkInGroup(group, alice, bob, jids));
  }
  plan('new-session-alice', () => meetStranger(alice, jids.alice, preKeys.alice));
  plan('new-session-bob', () => meetStranger(bob, jids.bob, preKeys.bob));
  plan('reload', async () => {
    const aliceAgain = await Peer.load('alice', alice.folder);
    const bobAgain = await Peer.load('bob', bob.folder);
    await talk(aliceAgain, bobAgain, jids);
    for (const group of groups) await talkInGroup(group, aliceAgain, bobAgain, jids);
  });
}

const newestPreKey = (peer) => Math.max(...peer.plainIds('pre-key').map(Number));

async function main() {
  let options;
  let pending;
  let ids;
  try {
    options = readArguments();
    pending = options.legacy ? undefined : readJson(options.pending);
    ids = options.ids && !options['skip-ids'] ? readJson(options.ids) : undefined;
  } catch (error) {
    reject(describeError(error));
    return;
  }
  setTimeout(() => {
    steps.push({ name: 'time-limit', ok: false, detail: `no end after ${TIME_LIMIT_MS} ms` });
    report();
  }, TIME_LIMIT_MS);

  const alice = await Peer.load('alice', options.alice);
  const bob = await Peer.load('bob', options.bob);
  const address = (peer) => pending?.[peer.name].lid ?? peer.creds.me?.id ?? '';
  const jids = { alice: address(alice), bob: address(bob) };
  const groups = pending?.groups ?? [LEGACY_GROUP];
  const preKeys = pending?.freshPreKeys ?? { alice: newestPreKey(alice), bob: newestPreKey(bob) };

  planStored(alice, bob, jids, pending, ids);
  if (pending) {
    planPending(alice, pending);
    planPending(bob, pending);
  }
  planNew(alice, bob, jids, groups, preKeys);

  const skipped = new Set(options.skip.split(',').filter(Boolean));
  for (const name of skipped) {
    if (!planned.some((step) => step.name === name)) {
      reject(`no step is called "${name}"`);
      return;
    }
  }
  await runPlanned(skipped);
  report();
}

await main();
