import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { build } from "esbuild";

/**
 * The web page, one script and one style sheet named by their content, into dist/web, from where the controller serves it.
 * Types are checked by `tsc -p controller/web`, not here.
 */
const FROM = "controller/web";
const TO = "dist/web";

async function main(): Promise<void> {
  rmSync(TO, { recursive: true, force: true });
  mkdirSync(TO, { recursive: true });
  const { metafile } = await build({
    entryPoints: { page: path.join(FROM, "main.tsx"), icon: path.join(FROM, "icon.svg") },
    outdir: path.join(TO, "assets"),
    entryNames: "[name]-[hash]",
    assetNames: "[name]-[hash]",
    loader: { ".svg": "copy" },
    bundle: true,
    format: "esm",
    target: ["es2022", "chrome111", "firefox121", "safari16.4"],
    jsx: "automatic",
    jsxImportSource: "preact",
    minify: true,
    legalComments: "eof",
    metafile: true,
    logLevel: "warning",
  });
  const made = Object.keys(metafile.outputs).map((file) => path.relative(TO, file));
  const named = (part: RegExp) => `/${made.find((file) => part.test(file))}`;
  writeFileSync(
    path.join(TO, "index.html"),
    `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Goku Cluster</title>
<link rel="icon" href="${named(/icon-.*\.svg$/)}">
<link rel="stylesheet" href="${named(/page-.*\.css$/)}">
<script type="module" src="${named(/page-.*\.js$/)}"></script>
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript. Without it: gokuctl status, gokuctl watch, gokuctl why.</noscript>
</body>
</html>
`,
  );
}

await main();
