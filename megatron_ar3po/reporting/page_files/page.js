"use strict";
// The page by itself: draws the figures in the page's colours, and shows the samples that the filters let through.
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const dataOf = (name) => {
    const element = byId(`data-${name}`);
    return element ? JSON.parse(element.textContent) : null;
  };
  const make = (tag, className = "", text = "") => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = readable(text);
    return element;
  };
  // A control character is shown as a picture of itself.
  const readable = (text) =>
    text.replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)));

  // ---- light and dark
  const wantsDark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = "";
  let isPrinted = false;
  const theme = () => (isPrinted ? "light" : chosen || (wantsDark.matches ? "dark" : "light"));
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  const colours = () => {
    const axis = { gridcolor: colour("--grid"), linecolor: colour("--edge"), zerolinecolor: colour("--edge"), automargin: true };
    return { font: { color: colour("--text"), size: 12 }, xaxis: axis, yaxis: axis };
  };
  const merge = (into, from) => {
    for (const [name, value] of Object.entries(from)) {
      if (value && typeof value === "object" && !Array.isArray(value)) into[name] = merge({ ...into[name] }, value);
      else into[name] = value;
    }
    return into;
  };
  const layoutOf = (layout) =>
    merge(
      merge(
        {
          paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 64, r: 14, t: 34, b: 46 },
          legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, hovermode: "x unified",
          hoverlabel: { bgcolor: colour("--panel"), font: { color: colour("--text") } },
        },
        layout,
      ),
      colours(),
    );
  const figures = [];
  const draw = (element, figure) => {
    const known = figures.find((one) => one.element === element);
    if (known) known.layout = figure.layout;
    else figures.push({ element, layout: figure.layout });
    return Plotly.react(element, figure.data, layoutOf(figure.layout), { responsive: true, displaylogo: false });
  };
  const applyTheme = () => {
    root.dataset.theme = theme();
    for (const { element, layout } of figures) Plotly.react(element, element.data, layoutOf(layout), { responsive: true, displaylogo: false });
  };
  root.dataset.theme = theme();
  byId("theme").addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    applyTheme();
  });
  wantsDark.addEventListener("change", applyTheme);
  matchMedia("print").addEventListener("change", (event) => {
    isPrinted = event.matches;
    applyTheme();
    for (const { element } of figures) Plotly.Plots.resize(element);
  });

  for (const script of document.querySelectorAll("script[data-figure]")) {
    draw(byId(script.dataset.figure), JSON.parse(script.textContent));
  }

  // ---- the history of single prompts
  const prompts = dataOf("prompts");
  const chooser = byId("prompt-chooser");
  if (prompts && chooser) {
    const show = () => {
      const prompt = prompts.list[chooser.value];
      const size = prompt.responses.map((n) => 6 + Math.min(18, n));
      const rates = prompt.correct.map((c, i) => (prompt.graded[i] ? c / prompt.graded[i] : null));
      draw(byId("prompt-figure"), {
        data: [{
          type: "scatter", mode: "lines+markers", x: prompt.steps, y: rates, line: { color: "#9aa4b0", width: 1 },
          text: prompt.outcomes.map((o, i) => `${prompts.outcomes[o]}: ${prompt.correct[i]} of ${prompt.graded[i]} correct, ${prompt.responses[i]} responses`),
          hovertemplate: "step %{x}: %{text}<extra></extra>",
          marker: { size, color: prompt.outcomes.map((o) => prompts.colours[o]) },
        }],
        layout: { xaxis: { title: { text: "step" } }, yaxis: { title: { text: "correct" }, range: [-0.08, 1.08], tickformat: ".0%" }, hovermode: "closest" },
      });
    };
    prompts.list.forEach((prompt, number) => {
      const option = make("option", "", `${prompt.name.slice(0, 90)} (${prompt.steps.length} visits)`);
      option.value = number;
      chooser.append(option);
    });
    chooser.addEventListener("change", show);
    show();
  }

  // ---- samples
  const samples = dataOf("samples");
  if (!samples || !byId("sample-list")) return;
  const PAGE = 20;
  let shown = PAGE;
  const filters = { status: byId("by-status"), origin: byId("by-origin"), source: byId("by-source"), from: byId("by-from"), to: byId("by-to"), text: byId("by-text") };
  const fill = (select, values) => {
    for (const value of [...new Set(values)].sort()) {
      const option = make("option", "", value || "(none)");
      option.value = `=${value}`;
      select.append(option);
    }
  };
  fill(filters.status, samples.flatMap((g) => g.responses.map((r) => r.status)));
  fill(filters.origin, samples.flatMap((g) => g.responses.map((r) => r.origin)));
  fill(filters.source, samples.map((g) => g.source));

  const asked = (select, value) => !select.value || select.value === `=${value}`;
  const matchesOf = (group, text) => {
    if (!asked(filters.source, group.source)) return [];
    if (filters.from.value && group.step < Number(filters.from.value)) return [];
    if (filters.to.value && group.step > Number(filters.to.value)) return [];
    const isInPrompt = group.prompt.toLowerCase().includes(text) || group.truth.toLowerCase().includes(text);
    return group.responses.filter(
      (r) => asked(filters.status, r.status) && asked(filters.origin, r.origin) &&
        (isInPrompt || r.text.toLowerCase().includes(text) || r.reason.toLowerCase().includes(text)),
    );
  };

  // Surprise is the depth of the colour, the sign of the advantage its hue.
  const shadeOf = (logprob, advantage) => {
    const depth = Math.min(0.75, -logprob / 6).toFixed(3);
    const hue = advantage === null || advantage === 0 ? "128, 128, 128" : `var(${advantage > 0 ? "--plus" : "--minus"})`;
    return `rgba(${hue}, ${Math.max(0, depth)})`;
  };
  const textOf = (response) => {
    const box = make("div", "text");
    const signs = Array.from(response.text);
    let at = 0;
    response.lengths.forEach((length, number) => {
      if (at >= signs.length) return;
      const token = make("span", "token", signs.slice(at, at + length).join(""));
      token.style.background = shadeOf(response.logprobs[number], response.advantage);
      token.title = `token ${number + 1}: log-prob ${response.logprobs[number]}, advantage ${response.advantage ?? "none"}`;
      box.append(token);
      at += length;
    });
    if (at < signs.length) box.append(document.createTextNode(readable(signs.slice(at).join(""))));
    if (!signs.length) box.append(make("i", "", "(empty)"));
    return box;
  };
  const responseOf = (response) => {
    const box = make("div", "response");
    const facts = make("div", "facts");
    facts.append(make("span", `status ${response.status}`, response.status));
    const said = [
      response.reason, response.origin === "reused" ? "borrowed from the store" : "fresh",
      `stage ${response.stage ?? "?"}`, `${response.tokens} tokens`, `weights ${response.version ?? "?"}`,
      response.advantage === null ? "no gradient" : `advantage ${response.advantage}`,
    ];
    if (response.reward !== null && response.reward !== undefined) said.push(`reward ${response.reward}`);
    if (response.cut) said.push(`${response.cut.toLocaleString("en")} more characters are in rollouts.jsonl`);
    facts.append(document.createTextNode(` ${readable(said.filter(Boolean).join(" · "))}`));
    box.append(facts, textOf(response));
    return box;
  };
  const groupOf = (group, matches) => {
    const box = make("article", "group");
    const of = matches.length === group.responses.length ? `${matches.length} responses` : `${matches.length} of ${group.responses.length} responses`;
    box.append(make("div", "facts", `step ${group.step} · ${of}${group.source ? ` · ${group.source}` : ""} · ground truth: ${group.truth}`));
    box.append(make("div", "prompt", group.prompt || group.id));
    for (const response of matches) box.append(responseOf(response));
    return box;
  };
  const list = byId("sample-list");
  const update = () => {
    const text = filters.text.value.toLowerCase();
    const found = samples.map((group) => [group, matchesOf(group, text)]).filter(([, matches]) => matches.length);
    const responses = found.reduce((sum, [, matches]) => sum + matches.length, 0);
    byId("sample-count").textContent = `${responses.toLocaleString("en")} responses in ${found.length.toLocaleString("en")} groups`;
    list.replaceChildren(...found.slice(0, shown).map(([group, matches]) => groupOf(group, matches)));
    byId("more").hidden = found.length <= shown;
  };
  for (const filter of Object.values(filters)) {
    filter.addEventListener("input", () => { shown = PAGE; update(); });
  }
  byId("more").addEventListener("click", () => { shown += PAGE; update(); });
  update();
})();
