// A temperature on a slider -> softmax(logits / T) of example images and rows, as bars, words and percents.
"use strict";
for (const root of document.querySelectorAll(".tempered")) {
  const { fitted, said, images, rows } = JSON.parse(root.querySelector("script").textContent);
  const find = (name) => root.querySelector(name);
  const slider = find("input"), claims = find(".claims"), at = find(".at");
  const cards = [...root.querySelectorAll(".card")].map((card) => [...card.querySelectorAll(".bars li")]);

  const softmax = (logits, t) => {
    const top = Math.max(...logits);
    const weights = logits.map((z) => Math.exp((z - top) / t));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((w) => w / sum);
  };
  const percent = (p) => {
    const whole = Math.round(100 * p);
    return whole >= 100 && p < 1 ? ">99%" : whole <= 0 && p > 0 ? "<1%" : whole + "%";
  };
  const show = (t) => {
    const name = t === fitted ? said : String(Number(t.toPrecision(3)));
    let claimed = 0;
    [...images, ...rows].forEach(({ logits, shown }, i) => {
      const p = softmax(logits.map((z) => z ?? -Infinity), t); // JSON has no -inf
      const others = p.reduce((sum, x, k) => (shown.includes(k) ? sum : sum + x), 0);
      if (i < images.length) claimed += Math.max(...p) / images.length;
      cards[i].forEach((bar, j) => {
        const share = j < shown.length ? p[shown[j]] : others;
        bar.style.setProperty("--share", share);
        bar.querySelector(".share").textContent = percent(share);
      });
    });
    find(".now").textContent = "T = " + name;
    slider.setAttribute("aria-valuetext", "T = " + name);
    return () => { // read out, so only when the slider rests
      at.textContent = name;
      claims.textContent = percent(claimed);
    };
  };

  slider.addEventListener("input", () => show(10 ** slider.value));
  slider.addEventListener("change", () => show(10 ** slider.value)());
  find("button").addEventListener("click", () => {
    slider.value = Math.log10(fitted);
    show(fitted)();
  });
  find(".control").hidden = false;
}
