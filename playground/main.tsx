import "./styles/page.css";
import "./styles/controls.css";
import "./styles/heatmap.css";
import "./styles/steps.css";
import "./styles/tiles.css";
import "./styles/options.css";
import "./styles/workshop.css";
import "./styles/benchmark.css";
import { render } from "preact";
import { Page } from "./page.tsx";

render(<Page />, document.getElementById("page")!);
