/** Arrays by name, the least recently used going first when their bytes are above the limit. */
export class LruCache {
  private readonly entries = new Map<string, Float32Array>(); // a Map keeps order: oldest first
  private bytes = 0;

  constructor(private readonly bytesMax: number) {}

  get(name: string): Float32Array | null {
    const found = this.entries.get(name);
    if (!found) return null;
    this.entries.delete(name);
    this.entries.set(name, found);
    return found;
  }

  set(name: string, values: Float32Array): void {
    const before = this.entries.get(name);
    if (before) this.bytes -= before.byteLength;
    this.entries.delete(name);
    if (values.byteLength > this.bytesMax) return;
    this.entries.set(name, values);
    this.bytes += values.byteLength;
    for (const [oldest, { byteLength }] of this.entries) {
      if (this.bytes <= this.bytesMax) break;
      this.entries.delete(oldest);
      this.bytes -= byteLength;
    }
  }
}
