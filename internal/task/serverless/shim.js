// Runs a plugin: a module that exports run(inputs, context, logger) and perhaps postRun, as plugins of this family do.
//
//   node shim.js PLUGIN CALL RESULT
//
// CALL is a JSON file with method, inputs and context; RESULT gets what came of it: outputs, the variables that the plugin
// changed, and whether it wants to be called again.
'use strict';
const fs = require('fs');
const path = require('path');
const util = require('util');

const [, , plugin, callFile, resultFile] = process.argv;
const call = JSON.parse(fs.readFileSync(callFile, 'utf8'));
const before = { ...process.env };

const write = (stream) => (...words) => stream.write(util.format(...words) + '\n');
const logger = {
  log: write(process.stdout),
  info: write(process.stdout),
  warn: write(process.stderr),
  error: write(process.stderr),
  debug: () => {},
};

async function main() {
  let loaded;
  try {
    loaded = require(plugin);
  } catch (err) {
    if (err.code !== 'ERR_REQUIRE_ESM' && err.code !== 'ERR_REQUIRE_ASYNC_MODULE') throw err;
    const file = require.resolve(plugin);
    loaded = await import(file);
  }
  const of = (name) => [loaded, loaded.default].map((m) => m && m[name]).find((f) => typeof f === 'function');
  const method = of(call.method);
  if (!method) throw new Error(`the plugin does not export ${call.method}(inputs, context, logger)`);
  const outputs = await method(call.inputs, call.context, logger);
  const env = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (before[name] !== value) env[name] = value;
  }
  const result = { outputs: outputs === undefined ? null : outputs, env, post: Boolean(of('postRun')) };
  const seen = new WeakSet();
  const plain = (key, value) => {
    if (value instanceof Error) return { message: value.message };
    if (typeof value === 'bigint') return value.toString();
    if (value && typeof value === 'object') {
      if (seen.has(value)) return undefined;
      seen.add(value);
    }
    return value;
  };
  fs.writeFileSync(path.resolve(resultFile), JSON.stringify(result, plain));
}

main().then(
  () => process.exit(process.exitCode || 0),
  (err) => {
    const missing = err && err.code === 'MODULE_NOT_FOUND' && err.message.startsWith(`Cannot find module '${plugin}'`);
    const text = missing ? `there is no plugin at ${plugin}` : (err && (err.stack || err.message)) || String(err);
    process.stderr.write(text + '\n');
    process.exit(1);
  },
);
