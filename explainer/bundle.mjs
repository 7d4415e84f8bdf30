// node bundle.mjs: makes of each scene one classic script (browsers refuse modules from file://), and of all scenes the
// default figures. With names of scenes, only these.

import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { basename } from "node:path";
import { build } from "esbuild";

const ROOT = import.meta.dirname ?? new URL(".", import.meta.url).pathname;
const all = readdirSync(`${ROOT}/src/scenes`).filter((file) => file.endsWith(".ts")).map((file) => file.slice(0, -3));
const wanted = process.argv.slice(2);
const scenes = wanted.length ? wanted : all.sort();
const stdin = (contents) => ({ contents, resolveDir: `${ROOT}/src`, loader: "ts" });

/** Notebooks and reports show a scene with data of their own: globalThis.jbnData.NAME stands for that of the build. */
const ownData = {
  name: "own data",
  setup: (bundler) =>
    bundler.onLoad({ filter: /_build\/data\/\w+\.json$/ }, ({ path }) => ({
      contents: `export default { ...${readFileSync(path, "utf8")}, ...globalThis.jbnData?.${basename(path, ".json")} };`,
      loader: "js",
    })),
};
const shared = { bundle: true, logLevel: "warning", absWorkingDir: ROOT, target: "es2022", plugins: [ownData] };

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
