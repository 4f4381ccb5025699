import { render } from "preact";
import { App } from "./app.js";
import { Live } from "./live.js";
import { applyTheme } from "./theme.js";
import { LiveContext } from "./use_known.js";
import "uplot/dist/uPlot.min.css";
import "./styles/base.css";
import "./styles/dark.css";
import "./styles/parts.css";
import "./styles/views.css";

const live = new Live();
applyTheme();
live.start();
render(
  <LiveContext.Provider value={live}>
    <App />
  </LiveContext.Provider>,
  document.getElementById("page")!,
);
