// What the user wrote, kept in this browser.

const key = (exercise: number) => `qkv exercise ${exercise}`;

/** The code of an exercise as it was left; undefined if it was not touched. */
export function loadDraft(exercise: number): string | undefined {
  try {
    return localStorage.getItem(key(exercise)) ?? undefined;
  } catch {
    return undefined; // storage is switched off
  }
}

export function saveDraft(exercise: number, code: string | undefined): void {
  try {
    if (code === undefined) localStorage.removeItem(key(exercise));
    else localStorage.setItem(key(exercise), code);
  } catch {
    // storage is full or switched off: the code lives until the page closes
  }
}
