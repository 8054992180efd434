/** Drawings on a grid of 16, told apart without colour. Always beside a word, so hidden from readers. */
const SHAPES = {
  ok: "M3 8.5 6.5 12 13 4.5",
  live: "M8 2.500a5.500 5.500 0 1 1-5.500 5.500",
  wait: "M8 2.500a5.500 5.500 0 1 0 0 11 5.500 5.500 0 0 0 0-11",
  hold: "M5.500 3.500v9M10.500 3.500v9",
  warn: "M8 2.500 14 13.500H2zM8 6.500v3M8 11.600v.1",
  bad: "M4 4 12 12M12 4 4 12",
  lost: "M5.500 5.500a2.500 2.500 0 1 1 3.800 2.100C8.400 8.200 8 8.700 8 9.700M8 12.700v.1",
  off: "M3.500 8h9",
  down: "M4 6.500 8 10.500 12 6.500",
  up: "M4 9.500 8 5.500 12 9.500",
  right: "M6.500 4 10.500 8 6.500 12",
  left: "M9.500 4 5.500 8 9.500 12",
  menu: "M2.500 4.500h11M2.500 8h11M2.500 11.500h11",
  more: "M3.500 8h.1M8 8h.1M12.500 8h.1",
  close: "M4 4 12 12M12 4 4 12",
  copy: "M5.500 5.500h8v8h-8zM10.500 5.500v-3h-8v8h3",
  search: "M7 2.500a4.500 4.500 0 1 0 0 9 4.500 4.500 0 0 0 0-9M10.500 10.500 13.500 13.500",
  person: "M8 3a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5M3 13.500c.5-3 2.500-4 5-4s4.500 1 5 4",
  plus: "M8 3v10M3 8h10",
  play: "M5 3.500 12.500 8 5 12.500z",
  retry: "M13 8a5 5 0 1 1-1.500-3.500M13 2.500v2.500h-2.500",
  link: "M7 9.500 9.500 7M6.500 6 8.500 4a2.500 2.500 0 0 1 3.500 3.500l-2 2M9.500 10l-2 2A2.500 2.500 0 0 1 4 8.500l2-2",
  download: "M8 2.500v7.500M4.500 7 8 10.500 11.500 7M3 13.500h10",
  clock: "M8 2.500a5.500 5.500 0 1 0 0 11 5.500 5.500 0 0 0 0-11M8 5v3.200l2 1.300",
} as const;

export type IconName = keyof typeof SHAPES;

export function Icon({ name, turning = false }: { name: IconName; turning?: boolean }) {
  return (
    <svg
      class={turning ? "icon turning" : "icon"}
      viewBox="0 0 16 16"
      width="16"
      height="16"
      fill="none"
      stroke="currentColor"
      stroke-width="1.75"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
    >
      <path d={SHAPES[name]} />
    </svg>
  );
}
