import { useEffect, useState } from "preact/hooks";

export interface Player {
  readonly frame: number;
  readonly playing: boolean;
  /** Goes to a frame, and stops there. */
  go(frame: number): void;
  toggle(): void;
}

/** Walks `count` frames, one every `interval` milliseconds; `key` begins anew. */
export function usePlayer(count: number, interval: number, key: unknown): Player {
  const [frame, setFrame] = useState(0);
  const [playing, setPlaying] = useState(false);
  useEffect(() => setFrame(0), [key]);
  const last = count - 1;
  useEffect(() => {
    if (!playing) return;
    const timer = setInterval(() => setFrame((before) => Math.min(before + 1, last)), interval);
    return () => clearInterval(timer);
  }, [playing, interval, last]);
  useEffect(() => {
    if (frame >= last) setPlaying(false);
  }, [frame, last]);
  return {
    frame: Math.min(frame, last),
    playing,
    go(to) {
      setPlaying(false);
      setFrame(Math.min(Math.max(to, 0), last));
    },
    toggle() {
      if (!playing && frame >= last) setFrame(0);
      setPlaying(!playing);
    },
  };
}
