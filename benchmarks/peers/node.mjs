// Drives the folder store of the real Baileys. Each line of standard input is a request in JSON,
// each line of standard output its answer. Values are made before a clock starts.

import { BufferJSON, useMultiFileAuthState } from 'baileys';

import { createInterface } from 'node:readline';

const open = new Map();
let sessions = [];
let preKeys = [];

const now = () => process.hrtime.bigint();
const since = (start) => Number(now() - start);
const parse = (text) => JSON.parse(text, BufferJSON.reviver);

function sessionOf([, template, rootKey]) {
  const record = parse(sessions[template]);
  Object.values(record._sessions)[0].currentRatchet.rootKey = rootKey;
  return record;
}

function recordsOf(change) {
  const records = {};
  if (change.sessions.length) {
    records.session = Object.fromEntries(change.sessions.map((each) => [each[0], sessionOf(each)]));
  }
  const keys = {};
  for (const id of change.put) keys[id] = preKeys[id % preKeys.length];
  for (const id of change.drop) keys[id] = null;
  if (Object.keys(keys).length) records['pre-key'] = keys;
  return records;
}

async function commit({ state, saveCreds }, change) {
  const records = recordsOf(change);
  const savesCredentials = change.credentials !== null;
  if (savesCredentials) state.creds.accountSyncCounter = change.credentials;
  const start = now();
  await state.keys.set(records);
  if (savesCredentials) await saveCreds();
  return since(start);
}

const verbs = {
  load(request) {
    sessions = request.sessions;
    preKeys = request.preKeys.map(parse);
    return 0;
  },
  async open({ folder }) {
    const start = now();
    const auth = await useMultiFileAuthState(folder);
    const taken = since(start);
    open.set(folder, auth);
    return taken;
  },
  close({ folder }) {
    open.delete(folder);
    return 0;
  },
  async commits({ folder, changes }) {
    const taken = [];
    for (const change of changes) taken.push(await commit(open.get(folder), change));
    return taken;
  },
  async read({ folder, ids }) {
    const { keys } = open.get(folder).state;
    const start = now();
    for (const id of ids) await keys.get('session', [id]);
    return since(start);
  },
  async readAtOnce({ folder, ids }) {
    const { keys } = open.get(folder).state;
    const start = now();
    await keys.get('session', ids);
    return since(start);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await verbs[request.verb](request))}\n`);
}
