// Devices of Baileys in folders, with the steps that its socket takes around the Signal engine: one
// line of JSON in, one line out.
//
// A request is {op, ...}: `open` gives a device its number, all others name it as `device`. Bytes
// are base64. The answer is {ok: value} or {error: text}.

import { Peer, describeError } from './peer.mjs';

import { createInterface } from 'node:readline';

import { generateSignalPubKey, getNextPreKeys, useMultiFileAuthState } from 'baileys';

// The Signal library tries every session of a record, and prints why each one failed.
let tried = [];
console.error = (line) => {
  const found = /^Session error:\s*(.*)/.exec(String(line));
  if (found) tried.push(describeError(new Error(found[1])).replace(/^Error: /, ''));
};

const bytes = (text) => Buffer.from(text, 'base64');
const text = (data) => Buffer.from(data).toString('base64');
const point = (key) => text(generateSignalPubKey(key));

const devices = [];

/** The device in a folder, made if there is none; `me` is who it is after pairing. */
async function open(_, { folder, me }) {
  const { state, saveCreds } = await useMultiFileAuthState(folder);
  const peer = new Peer('', state.creds, state.keys, folder);
  peer.save = saveCreds;
  if (!peer.creds.me) {
    Object.assign(peer.creds, { me, registered: true, platform: 'android' });
    await saveCreds();
  }
  return devices.push(peer) - 1;
}

function identity({ creds }) {
  const { keyId, keyPair, signature } = creds.signedPreKey;
  return {
    registration_id: creds.registrationId,
    identity_key: point(creds.signedIdentityKey.public),
    signed_pre_key_id: keyId,
    signed_pre_key: point(keyPair.public),
    signature: text(signature),
  };
}

/** Pre-keys for an upload or for a retry receipt: the socket takes the same steps for both. */
async function preKeys(peer, { count }) {
  const { update, preKeys: found } = await getNextPreKeys(peer, count);
  Object.assign(peer.creds, update);
  await peer.save();
  return Object.fromEntries(Object.entries(found).map(([id, pair]) => [id, point(pair.public)]));
}

async function begin(peer, { jid, bundle }) {
  const session = {
    registrationId: bundle.registration_id,
    identityKey: bytes(bundle.identity_key),
    signedPreKey: {
      keyId: bundle.signed_pre_key_id,
      publicKey: bytes(bundle.signed_pre_key),
      signature: bytes(bundle.signature),
    },
    preKey: { keyId: bundle.pre_key_id, publicKey: bytes(bundle.pre_key) },
  };
  await peer.repository.injectE2ESession({ jid, session });
}

async function encryptGroup(peer, { group, me, data }) {
  const wanted = { group, meId: me, data: bytes(data) };
  const sent = await peer.repository.encryptGroupMessage(wanted);
  return [text(sent.ciphertext), text(sent.senderKeyDistributionMessage)];
}

const OPS = {
  open,
  identity,
  preKeys,
  begin,
  encryptGroup,
  close: (peer, { device }) => {
    peer.repository.close();
    devices[device] = undefined;
  },
  preKeyIds: (peer) => peer.plainIds('pre-key').map(Number),
  counters: ({ creds }) => [creds.firstUnuploadedPreKeyId, creds.nextPreKeyId],
  hasSession: async (peer, { jid }) => (await peer.repository.validateSession(jid)).exists,
  dropSession: (peer, { jid }) => peer.repository.deleteSession([jid]),
  encrypt: async (peer, { jid, data }) => {
    const sent = await peer.repository.encryptMessage({ jid, data: bytes(data) });
    return [sent.type, text(sent.ciphertext)];
  },
  decrypt: async (peer, { jid, kind, data }) =>
    text(await peer.repository.decryptMessage({ jid, type: kind, ciphertext: bytes(data) })),
  ownSenderKey: async (peer, { group, me }) =>
    text(await peer.repository.getSenderKeyDistributionMessage({ group, meId: me })),
  takeSenderKey: async (peer, { group, author, key }) => {
    const item = { groupId: group, axolotlSenderKeyDistributionMessage: bytes(key) };
    await peer.repository.processSenderKeyDistributionMessage({ item, authorJid: author });
  },
  dropSenderKey: (peer, { group, me }) =>
    peer.keys.set({ 'sender-key': { [peer.senderKeyName(group, me)]: null } }),
  decryptGroup: async (peer, { group, author, data }) =>
    text(
      await peer.repository.decryptGroupMessage({ group, authorJid: author, msg: bytes(data) }),
    ),
  memory: async (peer, { group }) => Object.keys((await peer.key('sender-key-memory', group)) ?? {}),
  remember: (peer, { group, jids }) => {
    const known = jids && Object.fromEntries(jids.map((jid) => [jid, true]));
    return peer.keys.set({ 'sender-key-memory': { [group]: known } });
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  tried = [];
  try {
    answer = { ok: (await OPS[request.op](devices[request.device], request)) ?? null };
  } catch (error) {
    const why = [...new Set(tried)].join(', ');
    answer = { error: describeError(error) + (why && ` (${why})`) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
