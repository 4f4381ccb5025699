import { mkdtempSync } from "node:fs";
import path from "node:path";
import { type Disk, nodeDisk } from "../../../checkpoint/storage/disk.js";
import { FileStorage } from "../../../checkpoint/storage/file.js";
import { scratchFolder } from "../../checkpoint/fixtures.js";
import { LoggedDisk } from "../../checkpoint/logged_disk.js";
import { type StorageSubject, storageConformance } from "./suite.js";

const scratch = scratchFolder();

async function countUnfinished(disk: Disk, folder: string): Promise<number> {
  if ((await disk.stat(folder)) === null) return 0;
  let count = 0;
  for (const { name, folder: isFolder } of await disk.listFolder(folder)) {
    if (isFolder) count += await countUnfinished(disk, path.join(folder, name));
    else if (name.endsWith(".tmp")) count++;
  }
  return count;
}

function subject(disk: Disk, root: string): StorageSubject {
  return {
    storage: new FileStorage(root, `file://${root}`, disk),
    leaveUnfinished: async (key) => {
      const unfinished = path.join(root, path.dirname(key), `.${path.basename(key)}.00ff.tmp`);
      await (await disk.create(unfinished)).close();
    },
    unfinishedCount: () => countUnfinished(disk, root),
  };
}

storageConformance("the machine's file system", async () => ({
  fresh: async () => subject(nodeDisk, path.join(mkdtempSync(path.join(scratch, "disk-")), "a", "b")),
  stop: async () => {},
}));

storageConformance("the disk double", async () => ({
  fresh: async () => subject(new LoggedDisk(), "/a/b"),
  stop: async () => {},
}));
