import { useEffect, useRef, useState } from "preact/hooks";
import { formatRate } from "../numbers/format.ts";
import { Checkbox, Choice } from "../parts/controls.tsx";
import { Section } from "../parts/section.tsx";
import { Bars } from "./bars.tsx";
import {
  engines as allEngines,
  type BenchmarkReply,
  type BenchmarkRequest,
  type Engine,
  engineNames,
} from "./messages.ts";
import { reportText } from "./report.ts";
import { noResults, type Results, withReply } from "./results.ts";
import { Mark, Roofline } from "./roofline.tsx";
import type { SizeSet } from "./sizes.ts";

interface Progress {
  readonly share: number;
  readonly text: string;
}

export function BenchmarkSection({ hasGPU }: { hasGPU: boolean }) {
  const [sizes, setSizes] = useState<SizeSet>("small");
  const [wanted, setWanted] = useState<ReadonlySet<Engine>>(
    new Set<Engine>(hasGPU ? ["webgpu", "cpu"] : ["cpu"]),
  );
  const [results, setResults] = useState<Results>();
  const [progress, setProgress] = useState<Progress>();
  const worker = useRef<Worker>(undefined);

  const stop = () => {
    worker.current?.terminate();
    worker.current = undefined;
    setProgress(undefined);
  };
  useEffect(() => () => worker.current?.terminate(), []);
  const start = () => {
    const engines = allEngines.filter((engine) => wanted.has(engine));
    setResults(noResults(sizes, engines));
    setProgress({ share: 0, text: "Starting…" });
    const started = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    worker.current = started;
    started.onmessage = ({ data }: MessageEvent<BenchmarkReply>) => {
      if (data.kind === "progress") setProgress(data);
      else if (data.kind === "done") stop();
      else setResults((before) => before && withReply(before, data));
    };
    started.onerror = ({ message }) => {
      stop();
      setProgress({ share: 0, text: `It failed: ${message}` });
    };
    started.postMessage({ sizes, engines } satisfies BenchmarkRequest);
  };
  const toggle = (engine: Engine) => (checked: boolean) => {
    const next = new Set(wanted);
    if (checked) next.add(engine);
    else next.delete(engine);
    setWanted(next);
  };
  const running = worker.current !== undefined && progress !== undefined;
  return (
    <Section
      id="benchmark"
      number={5}
      title="Benchmark this device"
      lead={
        <>
          Median times of float32 attention, warmed up, inputs and outputs on the device. Decoding
          has one query and many keys, and reads more than it computes; encoding has as many queries
          as keys.
        </>
      }
    >
      <div class="controls">
        <Choice
          legend="Sizes"
          name="benchmark-sizes"
          values={
            [
              ["small", "small"],
              ["medium", "medium"],
              ["large", "large"],
            ] as const
          }
          value={sizes}
          onChange={setSizes}
        />
        <fieldset class="choice">
          <legend>What to time</legend>
          <div class="checkbox-row">
            {hasGPU && (
              <Checkbox
                label={engineNames.webgpu}
                checked={wanted.has("webgpu")}
                onChange={toggle("webgpu")}
              />
            )}
            <Checkbox
              label={engineNames.cpu}
              checked={wanted.has("cpu")}
              onChange={toggle("cpu")}
            />
            {hasGPU && (
              <Checkbox
                label="onnxruntime-web on the GPU (loads 27 MB, from this page's own server)"
                checked={wanted.has("onnxruntime")}
                onChange={toggle("onnxruntime")}
              />
            )}
          </div>
        </fieldset>
        {running ? (
          <button type="button" class="primary" onClick={stop}>
            Cancel
          </button>
        ) : (
          <button type="button" class="primary" onClick={start} disabled={wanted.size === 0}>
            Start
          </button>
        )}
      </div>
      {progress && (
        <p class="progress">
          <progress max={1} value={progress.share} aria-label="Progress" />{" "}
          <span role="status">{progress.text}</span>
        </p>
      )}
      {results && (
        <>
          <Bars results={results} />
          {results.rows.length > 0 && (
            <figure class="roofline-figure">
              <Roofline results={results} />
              <figcaption>
                {results.engines.map((engine) => (
                  <span key={engine} class={`point-${engine} engine-key`}>
                    <svg viewBox="-7 -7 14 14" aria-hidden="true">
                      <Mark engine={engine} />
                    </svg>
                    {engineNames[engine]}
                  </span>
                ))}
                {results.peaks && (
                  <span class="muted">
                    line: the GPU's peaks, measured as{" "}
                    {formatRate(results.peaks.flopsPerSecond, "FLOP/s")} and{" "}
                    {formatRate(results.peaks.bytesPerSecond, "B/s")}
                  </span>
                )}
              </figcaption>
            </figure>
          )}
          {Object.entries(results.failures).map(([engine, text]) => (
            <p key={engine} class="error">
              {engineNames[engine as Engine]}: {text}
            </p>
          ))}
          {results.rows.length > 0 && <Report text={reportText(results)} />}
        </>
      )}
    </Section>
  );
}

function Report({ text }: { text: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <div class="report">
      <textarea readOnly rows={text.split("\n").length} aria-label="Results as text" value={text} />
      <button type="button" onClick={copy}>
        {copied ? "Copied" : "Copy as text"}
      </button>
    </div>
  );
}
