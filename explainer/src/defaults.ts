// Run by node at build: the default figure of every scene, as HTML for readers without script.

import { mkdirSync, writeFileSync } from "node:fs";
import { render } from "@lit-labs/ssr";
import { collectResultSync } from "@lit-labs/ssr/lib/render-result.js";
import { picture } from "./kit/element";
import type { Scene, State } from "./kit/scene";

const WIDTH = 680;

export function write(folder: string, scenes: Scene<State, unknown, unknown>[]): void {
  mkdirSync(folder, { recursive: true });
  const plain = (drawn: unknown) => collectResultSync(render(drawn)).replace(/<!--.*?-->/gs, "").replace(/<\?>/g, "");
  for (const scene of scenes) {
    for (const [name, patch] of Object.entries({ "": {}, ...scene.variants })) {
      const file = name ? `${scene.name}-${name}` : scene.name;
      writeFileSync(`${folder}/${file}.html`, plain(picture(scene, { ...scene.state, ...patch }, WIDTH)));
    }
  }
}
