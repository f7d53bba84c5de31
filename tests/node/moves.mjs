// Devices of Baileys 7 and of Baileys 6, driven from outside: one line of JSON in, one line out.
//
// A request is {op, ...}: `open`, `create` and `fork` make a device and answer with its number; all
// others name it as `device`. Bytes are base64. The answer is {ok: value} or {error: text}.

import { Peer, describeError } from './peer.mjs';

import { createInterface } from 'node:readline';

import * as six from '../node6/library.mjs';

const LATE_GROUP_BUG = /^Expected Buffer instead of/;

/** Baileys 6, which reads base64 text inside a sender key back as text, and so has the same bug. */
class Peer6 extends Peer {
  static library = six;

  async forkReadingSkipped(group, author) {
    const name = this.senderKeyName(group, author);
    // Not the one in the cache: the library has spoilt that before it failed.
    const states = (await this.store.get('sender-key', [name]))[name];
    for (const key of states.flatMap((state) => state.senderMessageKeys)) key.seed = bytes(key.seed);
    const fork = this.fork();
    await fork.store.set({ 'sender-key': { [name]: states } });
    return fork;
  }
}

const CLASSES = { 6: Peer6, 7: Peer };

const devices = [];
const add = (peer) => devices.push(peer) - 1;
const bytes = (text) => Buffer.from(text, 'base64');
const text = (data) => Buffer.from(data).toString('base64');

async function mint(peer, count) {
  const { update } = await peer.constructor.library.getNextPreKeys(peer, count);
  Object.assign(peer.creds, update);
  await peer.save?.();
}

async function open(version, folder) {
  const kind = CLASSES[version];
  const { state, saveCreds } = await kind.library.useMultiFileAuthState(folder);
  const peer = new kind('', state.creds, state.keys, folder);
  peer.save = saveCreds;
  return peer;
}

/** A device that was just paired as `me`, in a folder or in memory, with `count` pre-keys. */
async function create({ version, folder, me, account, count }) {
  const peer = folder ? await open(version, folder) : CLASSES[version].fresh('');
  Object.assign(peer.creds, { me, account, registered: true, platform: 'android' });
  await mint(peer, count);
  return peer;
}

const address = (peer, jid) => peer.repository.jidToSignalProtocolAddress(jid);

async function begin(peer, { jid, bundle, drop }) {
  if (drop) await peer.keys.set({ session: { [address(peer, jid)]: null } });
  const key = (id, publicKey) => ({ keyId: id, publicKey: bytes(publicKey) });
  const session = {
    registrationId: bundle.registration_id,
    identityKey: bytes(bundle.identity_key),
    signedPreKey: {
      ...key(bundle.signed_pre_key_id, bundle.signed_pre_key),
      signature: bytes(bundle.signature),
    },
    preKey: key(bundle.pre_key_id, bundle.pre_key),
  };
  await peer.repository.injectE2ESession({ jid, session });
}

async function bundle(peer, id) {
  const { registrationId, identityKey, signedPreKey, preKey } = await peer.bundle(id);
  return {
    registration_id: registrationId,
    identity_key: text(identityKey),
    signed_pre_key_id: signedPreKey.keyId,
    signed_pre_key: text(signedPreKey.publicKey),
    signature: text(signedPreKey.signature),
    pre_key_id: preKey.keyId,
    pre_key: text(preKey.publicKey),
  };
}

async function encryptGroup(peer, { group, me, data }) {
  const wanted = { group, meId: me, data: bytes(data) };
  const sent = await peer.repository.encryptGroupMessage(wanted);
  return [text(sent.ciphertext), text(sent.senderKeyDistributionMessage)];
}

/** Late messages need help in one version of the library: see forkReadingSkipped. */
async function decryptGroup(peer, { group, author, data }) {
  const read = (reader) =>
    reader.repository.decryptGroupMessage({ group, authorJid: author, msg: bytes(data) });
  try {
    return text(await read(peer));
  } catch (error) {
    if (!LATE_GROUP_BUG.test(error.message)) throw error;
    return text(await read(await peer.forkReadingSkipped(group, author)));
  }
}

const OPS = {
  open: async (_, { version, folder }) => add(await open(version, folder)),
  create: async (_, request) => add(await create(request)),
  fork: (peer) => add(peer.fork()),
  close: (_, { device }) => void (devices[device] = undefined),
  mint: (peer, { count }) => mint(peer, count),
  bundle: (peer, { id }) => bundle(peer, id),
  hasPreKey: async (peer, { id }) => Boolean(await peer.key('pre-key', String(id))),
  begin,
  encrypt: async (peer, { jid, data }) => {
    const sent = await peer.repository.encryptMessage({ jid, data: bytes(data) });
    return [sent.type, text(sent.ciphertext)];
  },
  decrypt: async (peer, { jid, kind, data }) =>
    text(await peer.repository.decryptMessage({ jid, type: kind, ciphertext: bytes(data) })),
  encryptGroup,
  takeSenderKey: async (peer, { group, author, key }) => {
    const item = { groupId: group, axolotlSenderKeyDistributionMessage: bytes(key) };
    await peer.repository.processSenderKeyDistributionMessage({ item, authorJid: author });
  },
  /** Forget the own sender key, as the library does when someone leaves the group. */
  dropSenderKey: (peer, { group, me }) =>
    peer.keys.set({ 'sender-key': { [peer.senderKeyName(group, me)]: null } }),
  decryptGroup,
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = { ok: (await OPS[request.op](devices[request.device], request)) ?? null };
  } catch (error) {
    answer = { error: describeError(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
