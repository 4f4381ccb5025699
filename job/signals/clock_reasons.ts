/** Why the clocks of a GPU are not higher: bits of nvmlClocksEventReasons. */
export const CLOCK_REASONS = {
  idle: 0x1,
  application_clocks: 0x2,
  power_cap: 0x4,
  hardware_slowdown: 0x8,
  sync_boost: 0x10,
  software_thermal: 0x20,
  hardware_thermal: 0x40,
  power_brake: 0x80,
  display_clocks: 0x100,
} as const;

export const THERMAL_REASONS = CLOCK_REASONS.software_thermal | CLOCK_REASONS.hardware_thermal;
