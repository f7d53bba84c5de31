// Goes on, with npm baileys, with records that another library began: reads a JSON file that names
// the device, its records in Baileys' spelling, and what to do; prints what came of each step.

import { readFileSync } from 'node:fs';

import { BufferJSON, initAuthCreds } from 'baileys';

import { Peer, describeError, memoryStore } from './peer.mjs';

const task = JSON.parse(readFileSync(process.argv[2], 'utf8'), BufferJSON.reviver);

const peers = {};
for (const [name, { creds, records }] of Object.entries(task.peers)) {
  const store = memoryStore();
  await store.set(records);
  peers[name] = new Peer(name, { ...initAuthCreds(), ...creds }, store, null);
}

async function done(step) {
  const peer = peers[step.peer];
  if (step.do === 'read') return peer.decrypt(step.from, step.type, step.data);
  if (step.do === 'read-group') return peer.decryptGroup(step.group, step.from, step.data);
  if (step.do === 'read-skipped-group') {
    const fork = await peer.forkReadingSkipped(step.group, step.from);
    return fork.decryptGroup(step.group, step.from, step.data);
  }
  // A message to another peer of the task, which reads it.
  const { type, ciphertext } = await peer.encrypt(step.to, step.text);
  const text = await peers[step.reader].decrypt(step.from, type, ciphertext);
  return `${type} ${text}`;
}

const answers = [];
for (const step of task.steps) {
  try {
    answers.push(await done(step));
  } catch (error) {
    answers.push(describeError(error));
  }
}
console.log(JSON.stringify(answers));
process.exit(0);
