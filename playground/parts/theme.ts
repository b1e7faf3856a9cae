import { useEffect, useState } from "preact/hooks";
import type { ThemeName } from "../numbers/color-scale.ts";

const dark = matchMedia("(prefers-color-scheme: dark)");

/** Whether the page is light or dark now. */
export function useTheme(): ThemeName {
  const [isDark, setDark] = useState(dark.matches);
  useEffect(() => {
    const update = () => setDark(dark.matches);
    dark.addEventListener("change", update);
    return () => dark.removeEventListener("change", update);
  }, []);
  return isDark ? "dark" : "light";
}

/** Whether the user asks for little motion. */
export const prefersReducedMotion = (): boolean =>
  matchMedia("(prefers-reduced-motion: reduce)").matches;
