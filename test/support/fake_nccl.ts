import { existsSync, mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { libraryPath, standInLibrary } from "./stand_in_library.js";

/** NCCL between emulated devices, for processes that have `env`. */
export class FakeNccl {
  private readonly folder = mkdtempSync(path.join(tmpdir(), "goku-fake-nccl-"));
  private readonly library = standInLibrary({
    source: "fake_nccl.cc",
    file: "libnccl.so.2",
    flags: ["-O1"],
  });

  get env(): { LD_LIBRARY_PATH: string; GOKU_FAKE_NCCL: string } {
    return { LD_LIBRARY_PATH: libraryPath(this.library), GOKU_FAKE_NCCL: this.folder };
  }

  /** How it fails from now on, in the words of fake_nccl.cc; none: it works. */
  order(...lines: string[]): void {
    const file = path.join(this.folder, "orders");
    writeFileSync(`${file}.new`, lines.map((line) => `${line}\n`).join(""));
    renameSync(`${file}.new`, file); // never half of it
  }

  /** Groups of operations that members have ended well. */
  get done(): number {
    const file = path.join(this.folder, "done");
    return existsSync(file) ? statSync(file).size : 0;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
