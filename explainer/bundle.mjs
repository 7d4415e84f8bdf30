// node bundle.mjs: makes of each scene one classic script (browsers refuse modules from file://), and of all scenes the
// default figures. With names of scenes, only these.

import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { build } from "esbuild";

const ROOT = import.meta.dirname ?? new URL(".", import.meta.url).pathname;
const all = readdirSync(`${ROOT}/src/scenes`).filter((file) => file.endsWith(".ts")).map((file) => file.slice(0, -3));
const wanted = process.argv.slice(2);
const scenes = wanted.length ? wanted : all.sort();
const stdin = (contents) => ({ contents, resolveDir: `${ROOT}/src`, loader: "ts" });
const shared = { bundle: true, logLevel: "warning", absWorkingDir: ROOT, target: "es2022" };

mkdirSync(`${ROOT}/_build/scenes`, { recursive: true });
for (const name of scenes) {
  await build({
    ...shared,
    stdin: stdin(`import { scene } from "./scenes/${name}"; import { define } from "./kit"; define(scene);`),
    outfile: `${ROOT}/_build/scenes/${name}.js`,
    format: "iife",
    minify: true,
    charset: "utf8",
    conditions: ["production"],
  });
}

const imports = scenes.map((name, k) => `import { scene as scene${k} } from "./scenes/${name}";`).join("\n");
const list = scenes.map((_, k) => `scene${k}`).join(", ");
const program = `${ROOT}/_build/defaults.mjs`;
await build({
  ...shared,
  stdin: stdin(`${imports}\nimport { write } from "./defaults"; export default (folder) => write(folder, [${list}]);`),
  outfile: program,
  format: "esm",
  platform: "node",
  packages: "external",
});
const { default: write } = await import(program);
write(`${ROOT}/_build/defaults`);
rmSync(program);
