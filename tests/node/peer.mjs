// One device, its state in a multi-file folder, driven through the library's public functions.

import { describeError } from './quiet.mjs';

import { createPrivateKey, createPublicKey } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import * as baileys from 'baileys';
import { curve } from 'libsignal';

const { generateSignalPubKey } = baileys;
export { describeError };

const nothing = () => {};
export const logger = {
  level: 'silent',
  child: () => logger,
  trace: nothing,
  debug: nothing,
  info: nothing,
  warn: nothing,
  error: nothing,
  fatal: nothing,
};

/** A key store in memory; what it does not hold comes from `below`, which is never written to. */
export function memoryStore(below) {
  const families = new Map();
  return {
    async get(family, ids) {
      const own = families.get(family) ?? new Map();
      const missing = ids.filter((id) => !own.has(id));
      const found = below && missing.length > 0 ? await below.get(family, missing) : {};
      for (const id of ids) {
        if (own.has(id)) found[id] = own.get(id);
      }
      return found;
    },
    async set(data) {
      for (const [family, entries] of Object.entries(data)) {
        if (!families.has(family)) families.set(family, new Map());
        for (const [id, value] of Object.entries(entries)) families.get(family).set(id, value);
      }
    },
  };
}

export class Peer {
  /** The version of the library that drives it; a subclass may name another. */
  static library = baileys;

  constructor(name, creds, store, folder) {
    const { library } = this.constructor;
    this.name = name;
    this.creds = creds;
    this.store = store;
    this.folder = folder;
    this.keys = library.addTransactionCapability(
      library.makeCacheableSignalKeyStore(store, logger),
      logger,
      library.DEFAULT_CONNECTION_CONFIG.transactionOpts,
    );
    this.repository = library.DEFAULT_CONNECTION_CONFIG.makeSignalRepository(
      { creds, keys: this.keys },
      logger,
      async () => [],
    );
  }

  static async load(name, folder) {
    const { state } = await this.library.useMultiFileAuthState(folder);
    return new this(name, state.creds, state.keys, folder);
  }

  /** A device with new keys that exists in memory only. */
  static fresh(name) {
    return new this(name, this.library.initAuthCreds(), memoryStore(), null);
  }

  /** The same device as its folder stands now; what the copy does never reaches the folder. */
  fork() {
    return new this.constructor(this.name, this.creds, memoryStore(this.store), null);
  }

  async key(family, id) {
    return (await this.keys.get(family, [id]))[id];
  }

  identity() {
    return Buffer.from(generateSignalPubKey(this.creds.signedIdentityKey.public));
  }

  async encrypt(to, text) {
    return this.repository.encryptMessage({ jid: to, data: Buffer.from(text, 'utf8') });
  }

  async decrypt(from, type, ciphertext) {
    const plain = await this.repository.decryptMessage({ jid: from, type, ciphertext });
    return Buffer.from(plain).toString('utf8');
  }

  async encryptGroup(group, me, text) {
    const data = Buffer.from(text, 'utf8');
    return (await this.repository.encryptGroupMessage({ group, meId: me, data })).ciphertext;
  }

  async decryptGroup(group, author, message) {
    const plain = await this.repository.decryptGroupMessage({
      group,
      authorJid: author,
      msg: message,
    });
    return Buffer.from(plain).toString('utf8');
  }

  senderKeyName(group, author) {
    const [user, device] = this.repository.jidToSignalProtocolAddress(author).split('.');
    return `${group}::${user}::${device}`;
  }

  /**
   * A fork that can use stored keys of skipped group messages. This version of the library stores
   * bytes inside a sender key as lists of numbers and reads back only base64 text, so the fork
   * holds the same record with its bytes respelled.
   */
  async forkReadingSkipped(group, author) {
    const name = this.senderKeyName(group, author);
    const stored = await this.key('sender-key', name);
    if (!stored) throw new Error('no sender key stored for this author');
    const respelled = JSON.stringify(JSON.parse(Buffer.from(stored).toString('utf8')), (_, value) =>
      value?.type === 'Buffer' && Array.isArray(value.data)
        ? { type: 'Buffer', data: Buffer.from(value.data).toString('base64') }
        : value,
    );
    const fork = this.fork();
    await fork.store.set({ 'sender-key': { [name]: Buffer.from(respelled, 'utf8') } });
    return fork;
  }

  /** What another device needs to open a session with this one through a one-time pre-key. */
  async bundle(preKeyId) {
    const preKey = await this.key('pre-key', String(preKeyId));
    if (!preKey) throw new Error('the pre-key is not stored');
    const { keyPair, keyId, signature } = this.creds.signedPreKey;
    return {
      registrationId: this.creds.registrationId,
      identityKey: this.identity(),
      signedPreKey: {
        keyId,
        publicKey: Buffer.from(generateSignalPubKey(keyPair.public)),
        signature: Buffer.from(signature),
      },
      preKey: {
        keyId: Number(preKeyId),
        publicKey: Buffer.from(generateSignalPubKey(preKey.public)),
      },
    };
  }

  hasFile(name) {
    return existsSync(join(this.folder, name));
  }

  /** Ids of a family as its file names spell them; for families whose ids need no escaping. */
  plainIds(family) {
    const prefix = `${family}-`;
    return readdirSync(this.folder)
      .filter((name) => name.startsWith(prefix) && name.endsWith('.json'))
      .map((name) => name.slice(prefix.length, -'.json'.length));
  }
}

const PRIVATE_KEY_HEADER = Buffer.from('302e020100300506032b656e04220420', 'hex');

/** Whether `pair` holds a private key and its public key (32 bytes each). */
export function isKeyPair(pair) {
  if (pair?.private?.length !== 32 || pair?.public?.length !== 32) return false;
  const key = createPrivateKey({
    key: Buffer.concat([PRIVATE_KEY_HEADER, Buffer.from(pair.private)]),
    format: 'der',
    type: 'pkcs8',
  });
  const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
  return Buffer.from(pair.public).equals(spki.subarray(-32));
}

/**
 * Whether the signed pre-key carries a signature of the identity key. (The library's own
 * Curve.verify says yes to any signature, and so does opening a session: ask the curve itself.)
 */
export function isSignedPreKeyValid(creds) {
  const { keyPair, signature } = creds.signedPreKey;
  return curve.verifySignature(
    Buffer.from(generateSignalPubKey(creds.signedIdentityKey.public)),
    Buffer.from(generateSignalPubKey(keyPair.public)),
    Buffer.from(signature),
  );
}

const DOMAINS = { '': 's.whatsapp.net', _1: 'lid', _128: 'hosted', _129: 'hosted.lid' };

/** The JID whose Signal address is `user[_domain].device`. */
export function jidOfAddress(address) {
  const match = /^(\d+)(_\d+)?\.(\d+)$/.exec(address);
  const server = match && DOMAINS[match[2] ?? ''];
  if (!server) throw new Error('unknown kind of address');
  return match[3] === '0' ? `${match[1]}@${server}` : `${match[1]}:${match[3]}@${server}`;
}
