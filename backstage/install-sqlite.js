// Runs at the end of `npm ci`. better-sqlite3 is native code: this takes the binary that its authors
// keep on GitHub or, failing that, compiles it with the headers that came with this Node, where there
// are any. Left to itself it would ask nodejs.org for them even then.
const { spawnSync } = require('node:child_process');
const { existsSync, rmSync } = require('node:fs');
const path = require('node:path');

const modules = path.join(__dirname, 'node_modules');
const sqlite = path.join(modules, 'better-sqlite3');
const prefix = path.resolve(process.execPath, '..', '..');

if (existsSync(sqlite) && !works()) {
  const env = { ...process.env };
  if (existsSync(path.join(prefix, 'include', 'node', 'node.h'))) {
    env.npm_config_nodedir ??= prefix;
  }
  const done = spawnSync('npm run install', { cwd: sqlite, env, shell: true });
  if (done.status !== 0) {
    console.error(`${done.stdout}${done.stderr}`);
    console.error(
      'better-sqlite3 has no binary for this machine and does not compile here: see above.',
    );
    // npm's mark of a complete installation, which this is not.
    rmSync(path.join(modules, '.package-lock.json'), { force: true });
    process.exit(1);
  }
}

function works() {
  try {
    new (require(sqlite))(':memory:').close();
    return true;
  } catch {
    return false;
  }
}
