import type { ComponentChildren, Ref } from "preact";

/** A part that scrolls by itself. It takes the focus, so that the keyboard can scroll it, and has a name for readers. */
export function ScrollBox(props: {
  name: string;
  class: string;
  children: ComponentChildren;
  boxRef?: Ref<HTMLElement>;
  onScroll?: (event: { currentTarget: HTMLElement }) => void;
}) {
  const { name, children, boxRef = null, onScroll } = props;
  return (
    <section
      ref={boxRef}
      class={props.class}
      aria-label={name}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached with the keyboard
      tabIndex={0}
      onScroll={onScroll}
    >
      {children}
    </section>
  );
}
