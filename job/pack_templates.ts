/** All samples of one token count. */
export interface SizeClass {
  tokens: number;
  count: number;
}

/** What a run of equal packs holds of one size class. */
export interface TemplateEntry {
  sizeClass: number; // index into the classes
  perPack: number;
  /** Slots of the class used by all templates before this one. */
  slotStart: number;
}

/** `packCount` packs of equal composition, numbered from packStart. */
export interface PackTemplate {
  packStart: number;
  packCount: number;
  tokens: number;
  entries: TemplateEntry[];
}

interface OpenGroup {
  packCount: number;
  remaining: number;
  contents: { sizeClass: number; perPack: number }[];
}

/**
 * Groups of unfinished packs ordered by what still fits, so that the best fit is one binary search away.
 * Equal packs are one group: a million images of one size are a handful of groups, not a million packs.
 */
class OpenGroups {
  private readonly remainings: number[] = []; // ascending, distinct
  private readonly byRemaining = new Map<number, OpenGroup[]>();

  add(group: OpenGroup): void {
    const same = this.byRemaining.get(group.remaining);
    if (same) same.push(group);
    else {
      this.byRemaining.set(group.remaining, [group]);
      this.remainings.splice(this.lowerBound(group.remaining), 0, group.remaining);
    }
  }

  /** Removes and returns a group with the least room that is at least `tokens`. */
  takeBestFit(tokens: number): OpenGroup | null {
    const place = this.lowerBound(tokens);
    const remaining = this.remainings[place];
    if (remaining === undefined) return null;
    const groups = this.byRemaining.get(remaining)!;
    const group = groups.pop()!;
    if (groups.length === 0) {
      this.byRemaining.delete(remaining);
      this.remainings.splice(place, 1);
    }
    return group;
  }

  all(): OpenGroup[] {
    return this.remainings.flatMap((remaining) => this.byRemaining.get(remaining)!);
  }

  private lowerBound(tokens: number): number {
    let low = 0;
    let high = this.remainings.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.remainings[middle]! < tokens) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** `packCount` packs of `group` after each took `perPack` samples of the class. */
function filled(
  group: OpenGroup,
  packCount: number,
  sizeClass: number,
  perPack: number,
  tokens: number,
): OpenGroup {
  return {
    packCount,
    remaining: group.remaining - perPack * tokens,
    contents: perPack === 0 ? group.contents : [...group.contents, { sizeClass, perPack }],
  };
}

/**
 * Best-fit decreasing over size classes: the fixed multiset of packs that every epoch uses.
 * Classes must be in decreasing token count, none above tokensPerPack. Works on counts, never on single samples.
 */
export function packTemplates(classes: readonly SizeClass[], tokensPerPack: number): PackTemplate[] {
  const open = new OpenGroups();
  for (const [sizeClass, { tokens, count }] of classes.entries()) {
    let left = count;
    while (left > 0) {
      const found = open.takeBestFit(tokens);
      // no open pack has room: as many new ones as the class fills
      const group = found ?? {
        packCount: Math.ceil(left / Math.floor(tokensPerPack / tokens)),
        remaining: tokensPerPack,
        contents: [],
      };
      const perPack = Math.floor(group.remaining / tokens);
      const full = Math.min(group.packCount, Math.floor(left / perPack));
      left -= full * perPack;
      if (full > 0) open.add(filled(group, full, sizeClass, perPack, tokens));
      let untouched = group.packCount - full;
      if (untouched > 0 && left > 0) {
        open.add(filled(group, 1, sizeClass, left, tokens));
        left = 0;
        untouched -= 1;
      }
      if (untouched > 0) open.add({ ...group, packCount: untouched });
    }
  }
  return numbered(open.all(), classes, tokensPerPack);
}

function numbered(
  groups: readonly OpenGroup[],
  classes: readonly SizeClass[],
  tokensPerPack: number,
): PackTemplate[] {
  const slotNext = new Array<number>(classes.length).fill(0);
  let packNext = 0;
  return groups.map((group) => {
    const entries = group.contents.map(({ sizeClass, perPack }) => {
      const slotStart = slotNext[sizeClass]!;
      slotNext[sizeClass] = slotStart + perPack * group.packCount;
      return { sizeClass, perPack, slotStart };
    });
    const template = {
      packStart: packNext,
      packCount: group.packCount,
      tokens: tokensPerPack - group.remaining,
      entries,
    };
    packNext += group.packCount;
    return template;
  });
}
