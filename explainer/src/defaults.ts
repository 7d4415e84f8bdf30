// Run by node at build: the default figure of every scene, as HTML for readers without script.

import { mkdirSync, writeFileSync } from "node:fs";
import { render } from "@lit-labs/ssr";
import { collectResultSync } from "@lit-labs/ssr/lib/render-result.js";
import { picture } from "./kit/element";
import type { Scene, State } from "./kit/scene";

const WIDTH = 680;

export function write(folder: string, scenes: Scene<State, unknown, unknown>[]): void {
  mkdirSync(folder, { recursive: true });
  for (const scene of scenes) {
    const marked = collectResultSync(render(picture(scene, scene.state, WIDTH)));
    const plain = marked.replace(/<!--.*?-->/gs, "").replace(/<\?>/g, "");
    writeFileSync(`${folder}/${scene.name}.html`, plain);
  }
}
