// What the tests of all clients in JavaScript share: where the servers are, and how to wait for what one has logged.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

export const MODEL = 'smollm2';
export const SERVER = `${process.env.SERVER}/v1`;
export const NARROW = `${process.env.NARROW}/v1`; // wants the key "secret", lets no stream run for longer than 3 s
const PATIENCE = 60_000;

/** The log line that says how a stream of SERVER ended; waits for it. */
export async function endOf(requestId) {
  for (const deadline = Date.now() + PATIENCE; ; await sleep(20)) {
    const log = await readFile(process.env.SERVER_LOG, 'utf8');
    const wholeLines = log.slice(0, log.lastIndexOf('\n')).split('\n');
    const records = wholeLines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
    const end = records.find((record) => record.id === requestId && 'finish_reason' in record);
    if (end) return end;
    assert(Date.now() < deadline, `waited in vain for the end of ${requestId}`);
  }
}

export async function collect(iterable) {
  const all = [];
  for await (const one of iterable) all.push(one);
  return all;
}
