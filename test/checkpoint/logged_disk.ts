import type { Disk, DiskFile, DiskStat } from "../../checkpoint/storage/disk.js";
import type { Random } from "./fixtures.js";

/** One operation that changes the disk. Files are named by inode, as an open handle is. */
export type DiskOperation =
  | { op: "create"; path: string }
  | { op: "write"; inode: number; position: number; bytes: Uint8Array }
  | { op: "sync"; inode: number }
  | { op: "rename" | "link"; from: string; to: string }
  | { op: "unlink" | "makeFolder" | "removeFolder" | "syncFolder"; path: string };

/** What a crash leaves: everything (the process died), only what was synced, or any part of the rest (power failed). */
export type CrashMode = "keepAll" | "loseUnsynced" | "keepSome";

interface FileNode {
  kind: "file";
  bytes: Uint8Array;
  /** Content at the last sync, and the writes since. */
  durable: Uint8Array;
  pending: { position: number; bytes: Uint8Array }[];
}
interface FolderNode {
  kind: "folder";
  names: Map<string, number>;
  /** Names at the last sync of the folder, and for each name changed since, what it stood for in turn (null: nothing). */
  durable: Map<string, number>;
  pending: Map<string, (number | null)[]>;
}

/**
 * A disk in memory that logs every operation and knows what a crash may take. It is meaner than file systems are: each
 * name of a folder survives or not by itself (a rename can lose both its names), and each write since the last sync may
 * reach the disk whole, in part, or not at all, also without those before it.
 */
export class LoggedDisk implements Disk {
  readonly log: DiskOperation[] = [];
  /** Bytes that all files together may hold. */
  capacityBytes = Number.POSITIVE_INFINITY;
  #nodes: (FileNode | FolderNode)[] = [newFolder()];

  /** The disk after a crash at this instant. */
  crash(mode: CrashMode, random: Random): LoggedDisk {
    const after = new LoggedDisk();
    after.#nodes = this.#nodes.map((node) => survivor(node, mode, random));
    return after;
  }

  /** Carries out a logged operation; the same log on the same disk gives the same inodes. */
  apply(operation: DiskOperation): void {
    this.log.push(operation);
    switch (operation.op) {
      case "create":
        this.#nodes.push({ kind: "file", bytes: new Uint8Array(0), durable: new Uint8Array(0), pending: [] });
        this.#name(operation.path, this.#nodes.length - 1);
        break;
      case "makeFolder":
        this.#nodes.push(newFolder());
        this.#name(operation.path, this.#nodes.length - 1);
        break;
      case "write": {
        const file = this.#file(operation.inode);
        file.bytes = withBytes(file.bytes, operation.position, operation.bytes);
        file.pending.push(operation);
        break;
      }
      case "sync": {
        const file = this.#file(operation.inode);
        file.durable = file.bytes;
        file.pending = [];
        break;
      }
      case "syncFolder": {
        const folder = this.#folder(operation.path);
        folder.durable = new Map(folder.names);
        folder.pending.clear();
        break;
      }
      case "link":
        this.#name(operation.to, this.#find(operation.from)!);
        break;
      case "rename": {
        const inode = this.#find(operation.from)!;
        this.#name(operation.from, null);
        this.#name(operation.to, inode);
        break;
      }
      default:
        this.#name(operation.path, null);
    }
  }

  async create(path: string): Promise<DiskFile> {
    if (this.#find(path) !== null) throw fault("EEXIST");
    this.#parent(path);
    this.apply({ op: "create", path });
    return this.#handle(this.#nodes.length - 1);
  }

  async openRead(path: string): Promise<DiskFile> {
    return this.#handle(this.#require(path, "file"));
  }

  async rename(from: string, to: string): Promise<void> {
    this.#require(from, "file");
    this.#parent(to);
    this.apply({ op: "rename", from, to });
  }

  async link(from: string, to: string): Promise<void> {
    this.#require(from, "file");
    this.#parent(to);
    if (this.#find(to) !== null) throw fault("EEXIST");
    this.apply({ op: "link", from, to });
  }

  async unlink(path: string): Promise<void> {
    this.#require(path, "file");
    this.apply({ op: "unlink", path });
  }

  async makeFolder(path: string): Promise<void> {
    if (this.#find(path) !== null) throw fault("EEXIST");
    this.#parent(path);
    this.apply({ op: "makeFolder", path });
  }

  async removeFolder(path: string): Promise<void> {
    this.#require(path, "folder");
    if (this.#folder(path).names.size > 0) throw fault("ENOTEMPTY");
    this.apply({ op: "removeFolder", path });
  }

  async listFolder(path: string): Promise<{ name: string; folder: boolean }[]> {
    this.#require(path, "folder");
    return [...this.#folder(path).names].map(([name, inode]) => ({
      name,
      folder: this.#nodes[inode]!.kind === "folder",
    }));
  }

  async stat(path: string): Promise<DiskStat | null> {
    const inode = this.#find(path);
    if (inode === null) return null;
    const node = this.#nodes[inode]!;
    const bytes = node.kind === "file" ? node.bytes.byteLength : 0;
    const links = this.#nodes
      .flatMap((each) => (each.kind === "folder" ? [...each.names.values()] : []))
      .filter((named) => named === inode);
    return { kind: node.kind, bytes, inode: BigInt(inode), links: links.length };
  }

  async syncFolder(path: string): Promise<void> {
    this.#require(path, "folder");
    this.apply({ op: "syncFolder", path });
  }

  /** Every file as it now is. */
  files(): Map<string, Uint8Array> {
    const found = new Map<string, Uint8Array>();
    const visit = (folder: FolderNode, prefix: string): void => {
      for (const [name, inode] of folder.names) {
        const node = this.#nodes[inode]!;
        if (node.kind === "file") found.set(`${prefix}/${name}`, node.bytes);
        else visit(node, `${prefix}/${name}`);
      }
    };
    visit(this.#nodes[0] as FolderNode, "");
    return found;
  }

  /** Replaces the content of a file behind everyone's back, as a failing disk does. */
  damage(path: string, change: (bytes: Uint8Array) => Uint8Array): void {
    const file = this.#file(this.#require(path, "file"));
    file.bytes = change(file.bytes.slice());
    file.durable = file.bytes;
  }

  #handle(inode: number): DiskFile {
    const file = this.#file(inode);
    return {
      write: async (bytes, position) => {
        if (
          this.capacityBytes < Number.POSITIVE_INFINITY &&
          this.#used() + bytes.byteLength > this.capacityBytes
        )
          throw fault("ENOSPC");
        this.apply({ op: "write", inode, position, bytes: bytes.slice() });
      },
      read: async (into, position) => {
        const part = file.bytes.subarray(position, position + into.byteLength);
        into.set(part);
        return part.byteLength;
      },
      sync: async () => this.apply({ op: "sync", inode }),
      close: async () => {},
    };
  }

  #used(): number {
    return this.#nodes.reduce((sum, node) => sum + (node.kind === "file" ? node.bytes.byteLength : 0), 0);
  }

  #file(inode: number): FileNode {
    return this.#nodes[inode] as FileNode;
  }

  #folder(path: string): FolderNode {
    return this.#nodes[this.#find(path)!] as FolderNode;
  }

  #find(path: string): number | null {
    let inode = 0;
    for (const name of path.split("/").filter((part) => part !== "")) {
      const folder = this.#nodes[inode]!;
      const next: number | undefined = folder.kind === "folder" ? folder.names.get(name) : undefined;
      if (next === undefined) return null;
      inode = next;
    }
    return inode;
  }

  #require(path: string, kind: "file" | "folder"): number {
    const inode = this.#find(path);
    if (inode === null) throw fault("ENOENT");
    if (this.#nodes[inode]!.kind !== kind) throw fault(kind === "folder" ? "ENOTDIR" : "EISDIR");
    return inode;
  }

  #parent(path: string): FolderNode {
    return this.#nodes[this.#require(path.slice(0, path.lastIndexOf("/")), "folder")] as FolderNode;
  }

  #name(path: string, inode: number | null): void {
    const folder = this.#parent(path);
    const name = path.slice(path.lastIndexOf("/") + 1);
    if (inode === null) folder.names.delete(name);
    else folder.names.set(name, inode);
    folder.pending.set(name, [...(folder.pending.get(name) ?? []), inode]);
  }
}

function survivor(node: FileNode | FolderNode, mode: CrashMode, random: Random): FileNode | FolderNode {
  if (node.kind === "file") {
    const bytes =
      mode === "keepAll" ? node.bytes : mode === "loseUnsynced" ? node.durable : someWrites(node, random);
    return { kind: "file", bytes, durable: bytes, pending: [] };
  }
  const names = new Map(mode === "keepAll" ? node.names : node.durable);
  if (mode === "keepSome") {
    for (const [name, values] of node.pending) {
      const choice = random.below(values.length + 1);
      if (choice === values.length) continue; // as it was at the last sync
      const inode = values[choice]!;
      if (inode === null) names.delete(name);
      else names.set(name, inode);
    }
  }
  return { kind: "folder", names, durable: new Map(names), pending: new Map() };
}

function someWrites(node: FileNode, random: Random): Uint8Array {
  let bytes = node.durable;
  for (const write of node.pending) {
    const kept = [0, random.below(write.bytes.byteLength + 1), write.bytes.byteLength][random.below(3)]!;
    bytes = withBytes(bytes, write.position, write.bytes.subarray(0, kept));
  }
  return bytes;
}

function withBytes(old: Uint8Array, position: number, bytes: Uint8Array): Uint8Array {
  if (bytes.byteLength === 0) return old;
  const next = new Uint8Array(Math.max(old.byteLength, position + bytes.byteLength));
  next.set(old);
  next.set(bytes, position);
  return next;
}

function newFolder(): FolderNode {
  return { kind: "folder", names: new Map(), durable: new Map(), pending: new Map() };
}

function fault(code: string): Error {
  return Object.assign(new Error(code), { code });
}
