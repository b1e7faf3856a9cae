import type { ComponentChildren } from "preact";

/** A numbered section of the page. */
export function Section(props: {
  readonly id: string;
  readonly number: number;
  readonly title: string;
  readonly lead: ComponentChildren;
  readonly children: ComponentChildren;
}) {
  const { id, number, title, lead, children } = props;
  return (
    <section id={id} aria-labelledby={`${id}-title`}>
      <header class="section-header">
        <h2 id={`${id}-title`}>
          <span class="section-number">{number}</span> {title}
        </h2>
        <p class="lead">{lead}</p>
      </header>
      {children}
    </section>
  );
}
