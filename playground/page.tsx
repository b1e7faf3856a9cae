import { useEffect, useState } from "preact/hooks";
import { BenchmarkSection } from "./benchmark/section.tsx";
import { type Devices, onDeviceLost, openDevices } from "./device/devices.ts";
import { OptionsSection } from "./options/section.tsx";
import { WhenNear } from "./parts/when-near.tsx";
import { StepsSection } from "./steps/section.tsx";
import { TilesSection } from "./tiles/section.tsx";
import { WorkshopSection } from "./workshop/section.tsx";

const contents = [
  ["steps", "Step through"],
  ["tiles", "See the tiles"],
  ["options", "Options"],
  ["workshop", "Write your own"],
  ["benchmark", "Benchmark"],
] as const;

export function Page() {
  const [devices, setDevices] = useState<Devices>();
  const [error, setError] = useState<string>();
  const [lost, setLost] = useState(false);
  useEffect(() => {
    openDevices().then(
      (opened) => {
        setDevices(opened);
        onDeviceLost(opened.main, () => setLost(true));
      },
      (reason) => setError(String(reason)),
    );
  }, []);
  return (
    <>
      <a class="skip" href="#steps">
        Skip to the first section
      </a>
      <header class="masthead">
        <h1>Attention, on your own GPU</h1>
        <p class="lead">
          The playground of <b>qkv</b>, attention for TypeScript. Everything here runs in this page,
          on your device, through the library's public functions. Nothing is sent anywhere.
        </p>
        <DeviceLine devices={devices} error={error} lost={lost} />
      </header>
      <nav aria-label="Sections">
        <ol>
          {contents.map(([id, title], i) => (
            <li key={id}>
              <a href={`#${id}`}>
                <span class="section-number">{i + 1}</span> {title}
              </a>
            </li>
          ))}
        </ol>
      </nav>
      <main>
        {devices && (
          <>
            <StepsSection devices={devices} />
            <WhenNear id="tiles">
              <TilesSection devices={devices} />
            </WhenNear>
            <WhenNear id="options">
              <OptionsSection devices={devices} />
            </WhenNear>
            <WorkshopSection hasGPU={devices.main.kind === "webgpu"} />
            <BenchmarkSection hasGPU={devices.main.kind === "webgpu"} />
          </>
        )}
      </main>
    </>
  );
}

function DeviceLine(props: {
  readonly devices: Devices | undefined;
  readonly error: string | undefined;
  readonly lost: boolean;
}) {
  const { devices, error, lost } = props;
  if (error !== undefined) return <p class="device error">No device could be opened: {error}</p>;
  if (lost)
    return (
      <p class="device error" role="alert">
        The GPU device was lost: its driver was reset, or the page slept for long.{" "}
        <button type="button" onClick={() => location.reload()}>
          Reload
        </button>
      </p>
    );
  if (!devices) return <p class="device muted">Looking for a GPU…</p>;
  const { main, reason } = devices;
  return main.kind === "webgpu" ? (
    <p class="device" data-testid="device">
      <span class="dot on" /> {main.description}
    </p>
  ) : (
    <div class="device notice" data-testid="device">
      <p>
        <span class="dot" /> <b>There is no WebGPU here, so everything runs on the CPU</b>:{" "}
        {main.description}. Grids and WGSL are shown as a GPU would run them.
      </p>
      <p class="muted">{reason}</p>
    </div>
  );
}
