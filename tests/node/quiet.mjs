// Keep key material off the terminal. The Signal library prints whole sessions through
// console.info, console.warn and console.error, so every printing method is switched off before it
// is loaded; console.log stays, because a module run from the tests answers with it.

for (const method of ['debug', 'info', 'warn', 'error', 'trace', 'dir', 'table']) {
  console[method] = () => {};
}

/** What may be shown of an error: its class and its message without any quoted input. */
export function describeError(error) {
  if (!(error instanceof Error)) return 'an error that is not an Error';
  const message = String(error.message)
    .split('\n', 1)[0]
    .replace(/["'`[{<].*$/s, '...')
    .replace(/(?=[A-Za-z+/=_-]*\d)[A-Za-z0-9+/=_-]{16,}|[A-Za-z0-9+/=_-]{28,}/g, '...')
    .slice(0, 120);
  return `${error.name}: ${message}`;
}

process.on('uncaughtException', (error) => {
  process.stderr.write(`${describeError(error)}\n`, () => process.exit(70));
});
