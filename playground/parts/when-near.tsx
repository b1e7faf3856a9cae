import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

/** How far from the window something may be to count as near. */
const distance = "400px";

/** Calls back once when an element is nearly in sight. @returns What stops waiting for it. */
export function onceNear(element: Element, callback: () => void): () => void {
  const observer = new IntersectionObserver(
    (entries) => {
      if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
      observer.disconnect();
      callback();
    },
    { rootMargin: distance },
  );
  observer.observe(element);
  return () => observer.disconnect();
}

/** A section of the page that begins to work when it is nearly in sight: GPUs compile one at a time. */
export function WhenNear({ id, children }: { id: string; children: ComponentChildren }) {
  const placeholder = useRef<HTMLElement>(null);
  const [isNear, setNear] = useState(false);
  useEffect(() => onceNear(placeholder.current!, () => setNear(true)), []);
  return isNear ? children : <section id={id} class="not-near" ref={placeholder} />;
}
