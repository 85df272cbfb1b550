"use strict";
// Pictures are sent one after another: the server looks at one at a time anyway.
const get = (selector, within = document) => within.querySelector(selector);
const MOST = 24; // pictures at once
const sides = []; // {name, epoch} of each network
const pictures = []; // {file, name, answers: one element a side}
let limit = 0, queue = Promise.resolve();

function made(id) {
  return get(`#${id}`).content.firstElementChild.cloneNode(true);
}

function add(parent, tag, text) {
  const element = parent.appendChild(document.createElement(tag));
  element.textContent = text;
  return element;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

function say(text) {
  get("#status").textContent = text;
}

function inTurn(work) {
  queue = queue.then(work).catch((error) => say(String(error.message || error)));
  return queue;
}

// A server that is busy is asked again, for a while.
async function post(address, side, file) {
  const where = `${address}?side=${side}&epoch=${sides[side].epoch}`;
  const headers = { "Content-Type": "application/octet-stream" };
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch(where, { method: "POST", body: file, headers });
    } catch {
      throw new Error("the server does not answer; has app.py ended?");
    }
    if (response.ok) return response;
    if (response.status !== 503 || tries === 10) {
      const said = await response.json().catch(() => ({}));
      throw new Error(said.error || `the server failed (${response.status}); it says why`);
    }
    await new Promise((wake) => setTimeout(wake, 1000));
  }
}

function showCard(element, checkpoint) {
  const list = get("dl", element);
  list.replaceChildren();
  for (const [term, text] of checkpoint.card) {
    add(list, "dt", term);
    add(list, "dd", text);
  }
}

function addNetwork(side, number) {
  const element = made("side"), select = get("select", element);
  sides.push({ name: side.name, epoch: side.first });
  get("h3", element).textContent = side.name;
  for (const checkpoint of side.checkpoints) {
    const option = add(select, "option", `epoch ${checkpoint.epoch}`);
    option.value = checkpoint.epoch;
  }
  const chosen = () => side.checkpoints.find((one) => one.epoch === sides[number].epoch);
  select.value = side.first;
  select.setAttribute("aria-label", `Checkpoint of ${side.name}`);
  select.addEventListener("change", () => {
    sides[number].epoch = Number(select.value);
    showCard(element, chosen());
    for (const picture of pictures) inTurn(() => look(picture, number));
  });
  showCard(element, chosen());
  get("#networks").append(element);
}

function addPicture(file, name) {
  const element = made("picture"), image = get("img", element);
  const picture = { file, name, element, answers: [] };
  image.src = URL.createObjectURL(file);
  image.addEventListener("error", () => (image.hidden = true));
  get("h3", element).textContent = name;
  get(".remove", element).setAttribute("aria-label", `Remove ${name}`);
  get(".remove", element).addEventListener("click", () => {
    pictures.splice(pictures.indexOf(picture), 1);
    URL.revokeObjectURL(image.src);
    element.remove();
    get("#files").focus();
  });
  sides.forEach((side, number) => {
    const answer = made("answer");
    get("h4", answer).textContent = side.name;
    answer.setAttribute("aria-label", `${name}, ${side.name}`);
    get(".region button", answer).addEventListener("click", () => findRegion(picture, number));
    picture.answers.push(answer);
    get(".sides", element).append(answer);
    clear(answer);
  });
  pictures.unshift(picture);
  get("#results").prepend(element);
  sides.forEach((_, number) => inTurn(() => look(picture, number)));
}

function clear(answer) {
  for (const part of [".seen", ".region", "details", ".map"]) get(part, answer).hidden = true;
  get(".error", answer).textContent = get(".region p", answer).textContent = "";
}

async function look(picture, number) {
  const answer = picture.answers[number];
  if (!pictures.includes(picture)) return;
  clear(answer);
  get("h4", answer).textContent = `${sides[number].name}, epoch ${sides[number].epoch}`;
  try {
    if (picture.file.size > limit) {
      throw new Error(`has more than ${limit / 1e6} MB, which are the most`);
    }
    say(`Looking at ${picture.name} …`);
    show(picture, answer, await (await post("classify", number, picture.file)).json());
    const best = get("li", answer).textContent;
    say(`${picture.name}, ${sides[number].name}: ${best}`);
  } catch (error) {
    get(".error", answer).textContent = `${picture.name}: ${error.message}`;
    say("");
  }
}

function show(picture, answer, said) {
  const list = get("ol", answer);
  list.replaceChildren();
  for (const [name, share] of said.guesses) {
    const item = document.createElement("li");
    add(item, "span", `${name} `);
    add(item, "span", percent(share));
    const bar = add(add(item, "div", ""), "div", "");
    bar.style.width = percent(share);
    list.append(item);
  }
  get(".crop img", answer).src = said.crop;
  get(".crop img", answer).alt = `The part of ${picture.name} that the network sees`;
  get(".seen", answer).hidden = get(".region", answer).hidden = false;
  get("details", answer).hidden = !said.maps;
  if (said.maps) {
    get(".maps img", answer).src = said.maps;
    get(".maps img", answer).alt = `The first layer's maps of ${picture.name}`;
    get(".maps figcaption", answer).textContent = `${said.layer}, the strongest; dark is much`;
  }
}

// The answer is lines of JSON: how much is done, and at last the map.
async function* lines(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

async function findRegion(picture, number) {
  const answer = picture.answers[number], button = get(".region button", answer);
  const progress = get("progress", answer);
  button.disabled = true;
  progress.hidden = false;
  progress.value = 0;
  get(".error", answer).textContent = "";
  await inTurn(async () => {
    try {
      for await (const line of lines(await post("where", number, picture.file))) {
        if (line.error) throw new Error(line.error);
        if (line.images) progress.value = line.done / line.images;
        else showRegion(picture, answer, line);
      }
    } catch (error) {
      get(".error", answer).textContent = `${picture.name}: ${error.message}`;
    }
  });
  progress.hidden = true;
  button.disabled = false;
}

function showRegion(picture, answer, said) {
  const text = `Orange: hiding it makes ${said.name} less likely, by up to ${(100 * said.most).toFixed(0)}`
    + " points. Blue: more likely.";
  get(".map img", answer).src = said.map;
  get(".map img", answer).alt = `The region of ${picture.name} that decides. ${text}`;
  get(".region p", answer).textContent = text;
  get(".map", answer).hidden = false;
  say(`${picture.name}: the map is there`);
}

function take(files) {
  const chosen = [...files].slice(0, MOST);
  for (const file of chosen) addPicture(file, file.name);
  if (files.length > MOST) inTurn(() => say(`Only the first ${MOST} of ${files.length} pictures are taken`));
}

function addSample(name) {
  const title = name.replace(/^.*\/|\.jpg$/g, "");
  const button = add(get("#samples"), "button", ""), image = button.appendChild(new Image());
  button.type = "button";
  image.src = name;
  image.alt = `Look at the sample: ${title}`;
  button.addEventListener("click", async () => {
    addPicture(await (await fetch(name)).blob(), title);
  });
}

function readDrops() {
  const drop = get("#drop"), input = get("#files");
  input.addEventListener("change", () => {
    take(input.files);
    input.value = "";
  });
  // Anywhere on the page: a picture that misses the frame would replace the page.
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
}

async function start() {
  const said = await (await fetch("models")).json();
  limit = said.max_bytes;
  said.sides.forEach(addNetwork);
  said.samples.forEach(addSample);
  get("#limits").textContent = `JPEG, PNG, WebP, TIFF or BMP, at most ${limit / 1e6} MB each`;
  readDrops();
}

start().catch(() => say("The server does not answer; has app.py ended?"));
