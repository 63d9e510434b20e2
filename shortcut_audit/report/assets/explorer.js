"use strict";
// The map explorer: unpacks the page's own data, draws maps, and filters example images.
// Without this script the page says the same in pictures and tables.
(() => {
  const block = document.getElementById("audit-result");
  const section = document.getElementById("explore");
  if (!block || !section || typeof DecompressionStream === "undefined") return;
  const byId = (id) => document.getElementById(`explore-${id}`);

  const unpacked = async () => {
    const text = atob(block.textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const buffer = await new Response(stream).arrayBuffer();
    const length = Number(new DataView(buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
    const types = { U8: Uint8Array, I8: Int8Array, I16: Int16Array, U16: Uint16Array, U32: Uint32Array, F32: Float32Array };
    const arrays = {};
    for (const [name, entry] of Object.entries(header)) {
      if (!name.startsWith("explorer/")) continue;
      const [start, stop] = entry.data_offsets;
      // A copy: numbers have to lie at multiples of their size.
      arrays[name.slice(9)] = new types[entry.dtype](buffer.slice(8 + length + start, 8 + length + stop));
    }
    return arrays;
  };

  // Orbits in the tool's order: the first of both members in the half plane, row by row.
  const gridOf = (height, width) => {
    const u = [], v = [], members = [];
    for (let row = 0; row < height; row++) {
      for (let column = 0; column <= width >> 1; column++) {
        const otherRow = (height - row) % height, otherColumn = (width - column) % width;
        const both = otherColumn <= width >> 1;
        if (both && otherRow * width + otherColumn < row * width + column) continue;
        u.push(row > height >> 1 ? row - height : row);
        v.push(column);
        members.push(row === otherRow && column === otherColumn ? 1 : 2);
      }
    }
    return { height, width, u, v, members };
  };

  // One class's map: importance and rank by orbit, orbits in order. Ranks after the first are of bins.
  const mapOf = (data, about, place) => {
    const n = about.orbits, nTop = data.top.length / about.classes.length;
    const ranked = about.classes[place].ranked;
    const importance = new Float32Array(n), rank = new Float64Array(n);
    const top = data.top.subarray(place * nTop, (place + 1) * nTop);
    const order = Array.from(top);
    if (data.bins) {
      const bins = data.bins.subarray(place * n, (place + 1) * n), nBins = data.bin_importance.length / about.classes.length;
      const lists = Array.from({ length: nBins }, () => []);
      for (let k = 0; k < n; k++) {
        if (!bins[k]) continue;
        importance[k] = data.bin_importance[place * nBins + bins[k] - 1];
        rank[k] = Math.round(nTop + ((bins[k] - 0.5) * (ranked - nTop)) / nBins);
        lists[bins[k] - 1].push(k);
      }
      for (const list of lists) order.push(...list);
    }
    top.forEach((orbit, index) => {
      importance[orbit] = data.top_importance[place * nTop + index];
      rank[orbit] = index + 1;
    });
    return { importance, rank, order, nTop, ranked };
  };

  // Blue below zero, white at it, red above: told apart by eyes that see no red or no green.
  const colour = (share) => {
    const end = share < 0 ? [34, 98, 150] : [168, 52, 43], t = Math.min(1, Math.abs(share));
    return end.map((c) => Math.round(250 + (c - 250) * t));
  };

  const digits = (value) => {
    if (value === 0) return "0";
    const text = Math.abs(value) < 1e-3 || Math.abs(value) >= 1e4 ? value.toExponential(2) : value.toPrecision(3);
    return text.replace("-", "−");
  };
  const percent = (share) => `${(100 * share).toPrecision(share < 0.1 ? 2 : 3)}%`;
  const count = (value) => value.toLocaleString("en");

  const start = (data) => {
    const about = JSON.parse(new TextDecoder().decode(data["about.json"]));
    const grid = gridOf(about.height, about.width), n = about.orbits;
    const { height, width } = grid;
    const shorter = Math.min(height, width);
    const maps = new Map();
    const map = (place) => {
      if (!maps.has(place)) maps.set(place, mapOf(data, about, place));
      return maps.get(place);
    };
    const adcs = (place) => data.adcs.subarray(place * n, (place + 1) * n);
    const cell = (orbit, sign) => [
      (sign * grid.u[orbit] + (height >> 1) + height) % height,
      (sign * grid.v[orbit] + (width >> 1) + width) % width,
    ];
    const orbitAt = new Int32Array(height * width);
    for (let k = 0; k < n; k++) for (const sign of [1, -1]) {
      const [row, column] = cell(k, sign);
      orbitAt[row * width + column] = k;
    }
    const state = { place: 0, beside: -1, orbit: 0, kept: 1, column: 0, row: 0 };
    // Grids as small as this are drawn enlarged, so that the mark around an orbit is finer than an orbit.
    const zoom = Math.max(1, Math.ceil(288 / Math.max(height, width)));

    // Values whose colours fill the scale: the largest 0.5% would leave nothing but white to the rest.
    const limitOf = (values) => {
      const sizes = Array.from(values, Math.abs).slice(1).sort((a, b) => a - b);
      return sizes[Math.min(sizes.length - 1, Math.floor(0.995 * sizes.length))] || 1;
    };

    const draw = (canvas, values, limit, inMap) => {
      canvas.width = width * zoom;
      canvas.height = height * zoom;
      const context = canvas.getContext("2d");
      const small = new ImageData(width, height);
      for (let i = 0; i < height * width; i++) {
        const orbit = orbitAt[i];
        let rgb = orbit === 0 ? [200, 200, 200] : colour(values[orbit] / limit);
        if (inMap && !inMap[orbit]) rgb = rgb.map((c) => Math.round(232 + (c - 232) * 0.12));
        small.data.set([...rgb, 255], 4 * i);
      }
      const whole = document.createElement("canvas");
      whole.width = width;
      whole.height = height;
      whole.getContext("2d").putImageData(small, 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(whole, 0, 0, canvas.width, canvas.height);
      context.lineWidth = Math.max(1, zoom / 5);
      for (const sign of [1, -1]) {
        const [row, column] = cell(state.orbit, sign);
        const room = zoom > 2 ? 0 : 3;
        context.strokeStyle = "#000";
        context.strokeRect(column * zoom - room, row * zoom - room, zoom + 2 * room, zoom + 2 * room);
        context.strokeStyle = "#ffd400";
        context.strokeRect(column * zoom - room - context.lineWidth, row * zoom - room - context.lineWidth, zoom + 2 * (room + context.lineWidth), zoom + 2 * (room + context.lineWidth));
      }
    };

    const keptOf = (place) => {
      const inMap = new Uint8Array(n);
      for (const orbit of map(place).order.slice(0, state.kept)) inMap[orbit] = 1;
      return inMap;
    };
    const shareOf = (place) => {
      let own = 0, all = 0;
      map(place).order.forEach((orbit, index) => {
        all += grid.members[orbit];
        if (index < state.kept) own += grid.members[orbit];
      });
      return own / all;
    };

    const told = () => {
      const k = state.orbit, u = grid.u[k], v = grid.v[k], own = map(state.place);
      if (k === 0) return `DC, the mean colour: no wave${own.rank[0] ? `; rank ${count(own.rank[0])}` : ", not ranked"}.`;
      const radius = Math.hypot(u / height, v / width) * shorter;
      const angle = (Math.atan2(u / height, v / width) * 180) / Math.PI;
      const about_ = own.rank[k] > own.nTop ? "about " : "";
      const rank = own.rank[k]
        ? `rank ${about_}${count(own.rank[k])} of ${count(own.ranked)}, ${own.order.indexOf(k) < state.kept ? "in" : "not in"} the map as set`
        : "not ranked";
      const lines = [
        `Wave u ${u}, v ${v}: radius ${radius.toFixed(1)} cycles/image, direction ${angle.toFixed(0)}°.`.replaceAll("-", "−"),
        `“${about.classes[state.place].name}”: importance ${digits(own.importance[k])} (${about.importance}), ${rank}.`,
        `ADCS ${adcs(state.place)[k]} of ±${about.dataClasses - 1}.`.replace("-", "−"),
      ];
      if (state.beside >= 0) {
        const other = map(state.beside);
        lines.push(`“${about.classes[state.beside].name}”: importance ${digits(other.importance[k])}, rank ${other.rank[k] > other.nTop ? "about " : ""}${count(other.rank[k])}.`);
      }
      return lines.join(" ");
    };

    const wave = () => {
      const canvas = byId("wave"), context = canvas.getContext("2d");
      const side = 160, u = grid.u[state.orbit], v = grid.v[state.orbit];
      canvas.width = Math.round((side * width) / Math.max(height, width));
      canvas.height = Math.round((side * height) / Math.max(height, width));
      const image = context.createImageData(canvas.width, canvas.height);
      for (let y = 0; y < canvas.height; y++) for (let x = 0; x < canvas.width; x++) {
        // Sampled where the pixels of the image lie, so that fine waves look as they do there.
        const py = Math.floor((y * height) / canvas.height), px = Math.floor((x * width) / canvas.width);
        const c = 127.5 + 120 * Math.cos(2 * Math.PI * ((u * py) / height + (v * px) / width));
        image.data.set([c, c, c, 255], 4 * (y * canvas.width + x));
      }
      context.putImageData(image, 0, 0);
    };

    const drawMaps = () => {
      const inMap = byId("only").checked ? keptOf(state.place) : null;
      const own = map(state.place), limit = limitOf(own.importance);
      draw(byId("map"), own.importance, limit, inMap);
      byId("scale").textContent = `blue −${digits(limit)}, white 0, red ${digits(limit)}: ${about.importance}; grey: DC`;
      if (state.beside < 0) {
        draw(byId("other"), adcs(state.place), about.dataClasses - 1 || 1, null);
        byId("other-scale").textContent = `data: in how many more classes than not this one has the larger amplitude; blue −${about.dataClasses - 1}, red ${about.dataClasses - 1}`;
      } else {
        const other = map(state.beside), otherLimit = limitOf(other.importance);
        draw(byId("other"), other.importance, otherLimit, byId("only").checked ? keptOf(state.beside) : null);
        byId("other-scale").textContent = `“${about.classes[state.beside].name}”: blue −${digits(otherLimit)}, red ${digits(otherLimit)}`;
      }
    };
    const showOrbit = () => {
      byId("told").textContent = told();
      wave();
      drawMaps();
    };

    // The example image, as the page shows it, transformed once and then kept orbit by orbit.
    const spectra = new Map();
    const tables = (size) => {
      const cos = new Float32Array(size), sin = new Float32Array(size);
      for (let i = 0; i < size; i++) { cos[i] = Math.cos((2 * Math.PI * i) / size); sin[i] = Math.sin((2 * Math.PI * i) / size); }
      return { cos, sin };
    };
    const alongRows = tables(width), alongColumns = tables(height), half = (width >> 1) + 1;
    const spectrumOf = (pixels) => [0, 1, 2].map((channel) => {
      const re = new Float32Array(height * half), im = new Float32Array(height * half);
      const re1 = new Float32Array(height * half), im1 = new Float32Array(height * half);
      for (let y = 0; y < height; y++) for (let q = 0; q < half; q++) {
        let a = 0, b = 0;
        for (let x = 0, t = 0; x < width; x++, t = (t + q) % width) {
          const value = pixels[4 * (y * width + x) + channel];
          a += value * alongRows.cos[t];
          b -= value * alongRows.sin[t];
        }
        re1[y * half + q] = a;
        im1[y * half + q] = b;
      }
      for (let p = 0; p < height; p++) for (let q = 0; q < half; q++) {
        let a = 0, b = 0;
        for (let y = 0, t = 0; y < height; y++, t = (t + p) % height) {
          const c = alongColumns.cos[t], s = alongColumns.sin[t], r = re1[y * half + q], i = im1[y * half + q];
          a += r * c + i * s;
          b += i * c - r * s;
        }
        re[p * half + q] = a;
        im[p * half + q] = b;
      }
      return { re, im };
    });
    const filtered = (spectrum, inMap) => {
      const out = new Uint8ClampedArray(4 * height * width).fill(255);
      spectrum.forEach(({ re, im }, channel) => {
        const re1 = new Float32Array(height * half), im1 = new Float32Array(height * half);
        for (let k = 0; k < n; k++) {
          if (!inMap[k]) continue;
          // Both members where both lie in the half plane; elsewhere the mirror image is implied.
          const bins = [[(grid.u[k] + height) % height, grid.v[k]]];
          const mirror = (width - grid.v[k]) % width;
          if (mirror < half && grid.members[k] === 2) bins.push([(height - bins[0][0]) % height, mirror]);
          for (const [p, q] of bins) {
            const a = re[p * half + q], b = im[p * half + q];
            for (let y = 0, t = 0; y < height; y++, t = (t + p) % height) {
              const c = alongColumns.cos[t], s = alongColumns.sin[t];
              re1[y * half + q] += a * c - b * s;
              im1[y * half + q] += a * s + b * c;
            }
          }
        }
        const used = [];
        for (let q = 0; q < half; q++) for (let y = 0; y < height; y++) if (re1[y * half + q] || im1[y * half + q]) { used.push(q); break; }
        for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
          let sum = 0;
          for (const q of used) {
            const weight = q === 0 || 2 * q === width ? 1 : 2, t = (q * x) % width;
            sum += weight * (re1[y * half + q] * alongRows.cos[t] - im1[y * half + q] * alongRows.sin[t]);
          }
          out[4 * (y * width + x) + channel] = sum / (height * width) + (inMap[0] ? 0 : 255 * about.fill[channel % about.fill.length]);
        }
      });
      return out;
    };
    const exampleOf = async (place) => {
      if (spectra.has(place)) return spectra.get(place);
      const source = document.querySelector(`img[data-picture="${about.classes[place].picture}"]`);
      if (!source) return null;
      await source.decode();
      const canvas = document.createElement("canvas");
      canvas.width = width;
      canvas.height = height;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(source, 0, 0, width, height);
      const spectrum = spectrumOf(context.getImageData(0, 0, width, height).data);
      spectra.set(place, spectrum);
      return spectrum;
    };
    let turn = 0;
    const showExample = async () => {
      const place = state.place, own = about.classes[place], mine = ++turn;
      const figure = byId("example-figure");
      const small = height * width * (height + width) <= 1e8;
      figure.hidden = !own.picture || !small;
      if (figure.hidden) return;
      // Dragging a slider asks faster than large images can be filtered: the last question is answered.
      await new Promise((done) => setTimeout(done, 40));
      if (mine !== turn) return;
      const spectrum = await exampleOf(place);
      if (!spectrum || mine !== turn) return;
      const inMap = keptOf(place);
      if (about.dc !== "rank") inMap[0] = about.dc === "keep" ? 1 : 0;
      const canvas = byId("example");
      canvas.width = width;
      canvas.height = height;
      canvas.getContext("2d").putImageData(new ImageData(filtered(spectrum, inMap), width, height), 0, 0);
      const share = shareOf(place);
      let text = `example with ${percent(share)} kept.`;
      if (own.steps.length) {
        // Nearest in ratio: 1% and 2% are as far apart as 10% and 20%.
        const step = own.steps.reduce((a, b) => (Math.abs(Math.log(b.share / share)) < Math.abs(Math.log(a.share / share)) ? b : a));
        text += ` Measured at ${percent(step.share)} (${count(step.orbits)} orbit${step.orbits === 1 ? "" : "s"}): called ${step.predicted} (${percent(step.probability)}); ${own.name}: ${percent(step.ofClass)}.`;
      }
      byId("example-told").textContent = text;
    };
    const showShare = () => {
      const text = `${count(state.kept)} orbit${state.kept === 1 ? "" : "s"}, ${percent(shareOf(state.place))} of the spectrum`;
      byId("share-told").textContent = text;
      byId("share").setAttribute("aria-valuetext", text);
      showExample();
    };

    // The slider goes by the logarithm of the number of orbits: shortcuts are slivers.
    const STEPS = 240;
    const toKept = (value) => Math.max(1, Math.round(map(state.place).ranked ** (value / STEPS)));
    const toValue = (kept) => Math.round((STEPS * Math.log(kept)) / Math.log(map(state.place).ranked));
    const setKept = (kept) => {
      state.kept = Math.min(kept, map(state.place).ranked);
      byId("share").value = toValue(state.kept);
    };

    const choose = (row, column) => {
      state.row = (row + height) % height;
      state.column = (column + width) % width;
      state.orbit = orbitAt[state.row * width + state.column];
      showOrbit();
    };
    const chooseOrbit = (orbit) => choose(...cell(orbit, 1));
    const byPointer = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      const row = Math.floor(((event.clientY - box.top) / box.height) * height);
      const column = Math.floor(((event.clientX - box.left) / box.width) * width);
      if (row >= 0 && column >= 0 && row < height && column < width) choose(row, column);
    };
    const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const byKey = (event) => {
      const { order, rank } = map(state.place), key = event.key;
      const place = order.indexOf(state.orbit);
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (MOVES[key]) choose(state.row + MOVES[key][0] * (event.shiftKey ? 8 : 1), state.column + MOVES[key][1] * (event.shiftKey ? 8 : 1));
      else if (key === "Home") chooseOrbit(order[0]);
      else if (key === "PageDown") chooseOrbit(order[Math.min(order.length - 1, place + 1)]);
      else if (key === "PageUp") chooseOrbit(order[Math.max(0, place - 1)]);
      else return;
      event.preventDefault();
      // Only what the keyboard asked for is read aloud; a pointer would never let it end.
      byId("said").textContent = told();
    };

    const chosen = byId("class"), beside = byId("beside");
    about.classes.forEach((item, index) => {
      const label = `${item.name || "(no name)"} (${item.verdict})`;
      chosen.append(new Option(label, index));
      beside.append(new Option(`class: ${item.name || "(no name)"}`, index));
    });
    chosen.addEventListener("change", () => {
      state.place = Number(chosen.value);
      setKept(about.classes[state.place].kept);
      chooseOrbit(map(state.place).order[0]);
      showShare();
    });
    beside.addEventListener("change", () => { state.beside = Number(beside.value); showOrbit(); });
    byId("only").addEventListener("change", drawMaps);
    byId("share").addEventListener("input", () => {
      state.kept = toKept(Number(byId("share").value));
      showOrbit();
      showShare();
    });
    for (const name of ["map", "other"]) {
      const holder = byId(name).parentElement;
      let drawn = 0;
      const later = (event) => {
        const at = { currentTarget: holder, clientX: event.clientX, clientY: event.clientY };
        cancelAnimationFrame(drawn);
        drawn = requestAnimationFrame(() => byPointer(at));
      };
      holder.addEventListener("pointermove", later);
      holder.addEventListener("pointerdown", later);
      holder.addEventListener("keydown", byKey);
    }
    for (const link of document.querySelectorAll("a[data-explore]")) {
      link.hidden = false;
      link.addEventListener("click", () => {
        chosen.value = link.dataset.explore;
        chosen.dispatchEvent(new Event("change"));
      });
    }
    section.hidden = false;
    for (const link of document.querySelectorAll("[data-needs-explorer]")) link.hidden = false;
    byId("share").max = STEPS;
    setKept(about.classes[0].kept);
    chooseOrbit(map(0).order[0]);
    showShare();
  };

  // Damaged data leave the page as it is without scripts.
  unpacked().then((data) => { if (data["about.json"]) start(data); }).catch(() => {});
})();
