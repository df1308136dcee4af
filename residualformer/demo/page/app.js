// The page, whatever recognizes the speech: shows the messages of docs/demo.md. All text is set as text, never as HTML.
const BLOCK_S = 0.2; // of a file, sent at a time
const LINES = 200; // paragraphs of text that are kept
const byId = (id) => document.getElementById(id);
export const show = (state) => { byId("state").textContent = state; };

let engine = null;

export function start(given) {
  // Lets the page be used. An engine has
  //   greeting: the message that names the model, if it is known before the first stream;
  //   fileRate: Hz, to which the browser resamples files;
  //   createStream(rate, hotwords, answer): a stream, which calls `answer` with each message. It has
  //     ready and ended: promises, the latter of the end or of what failed;
  //     send(samples): takes a Float32Array in [-1, 1]; end();
  //     room(): a promise to wait for before more of a file is sent.
  engine = given;
  for (const id of ["microphone", "files"]) byId(id).disabled = false;
  if (engine.greeting) greet(engine.greeting);
  show("ready");
}

function createStream(rate, name) {
  const line = new Line(name);
  const hotwords = byId("hotwords").value.split("\n").map((word) => word.trim()).filter(Boolean);
  return engine.createStream(rate, hotwords, (message) => message.model ? greet(message) : draw(message, line));
}

let branches = 1;

function greet(greeting) {
  byId("model").textContent = greeting.model;
  branches = greeting.branches;
  byId("branches").hidden = branches < 2;
}

function draw(message, line) {
  line.show(message.segments, message.partial);
  byId("received").textContent = `${message.received.toFixed(1)} s`;
  if (message.rtf !== null) byId("rtf").textContent = message.rtf.toFixed(3);
  if (message.latency !== null) byId("latency").textContent = `${Math.round(1000 * message.latency)} ms`;
  if (message.branch !== null) drawBranch(message.branch);
}

class Line {
  // The text of a stream: a paragraph for each segment, the last one open.
  constructor(name) {
    this.add(name, "name");
    this.open = this.add("", "partial");
  }

  add(text, kind) {
    const paragraph = document.createElement("p");
    paragraph.className = kind;
    paragraph.textContent = text;
    byId("text").append(paragraph);
    while (byId("text").childElementCount > LINES) byId("text").firstElementChild.remove();
    return paragraph;
  }

  show(segments, partial) {
    for (const segment of segments) {
      this.open.className = "segment";
      if (segment.match === false) this.open.textContent = "no match";
      else if (segment.words) this.open.replaceChildren(...segment.words.flatMap(shaded));
      else this.open.textContent = segment.text;
      const slots = Object.entries(segment.slots ?? {}).map(([name, value]) => `${name}: ${value}`);
      if (slots.length) this.open.append(` (${slots.join(", ")})`);
      this.open = this.add("", "partial");
    }
    this.open.textContent = partial;
  }
}

function shaded(word) {
  // A word, the darker the surer.
  const element = document.createElement("span");
  element.textContent = word.word;
  element.style.opacity = (0.3 + 0.7 * word.confidence).toFixed(2);
  element.title = `${Math.round(100 * word.confidence)}%, ${word.start.toFixed(2)} to ${word.end.toFixed(2)} s`;
  return [element, " "];
}

function drawBranch(branch) {
  const strip = byId("strip"), pen = strip.getContext("2d");
  pen.drawImage(strip, -2, 0);
  pen.clearRect(strip.width - 2, 0, 2, strip.height);
  const height = strip.height * (branches - branch) / branches;
  pen.fillStyle = branch === 0 ? "#246" : "#8bd";
  pen.fillRect(strip.width - 2, strip.height - height, 2, height);
}

let recording = null;

async function startMicrophone() {
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const source = await navigator.mediaDevices.getUserMedia({ audio });
  const context = new AudioContext();
  await context.audioWorklet.addModule("recorder.js");
  const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  const stream = createStream(context.sampleRate, "microphone");
  const release = () => {
    source.getTracks().forEach((track) => track.stop());
    context.close();
  };
  try {
    await stream.ready;
  } catch (error) {
    release();
    throw error;
  }
  recorder.port.onmessage = (event) => stream.send(event.data);
  context.createMediaStreamSource(source).connect(recorder);
  const stop = () => {
    release();
    stream.end();
  };
  stream.ended.catch((error) => show(error.message)).then(() => recording === stop && toggle());
  return stop;
}

async function toggle() {
  const button = byId("microphone");
  const stop = recording;
  recording = null;
  if (stop) {
    stop();
    button.textContent = "Start the microphone";
    show("ready");
    return;
  }
  button.disabled = true;
  try {
    recording = await startMicrophone();
    button.textContent = "Stop the microphone";
    show("listening");
  } catch (error) {
    show(error.message);
  }
  button.disabled = false;
}

async function recognizeFile(file) {
  show(`reading ${file.name}`);
  const rate = engine.fileRate, block = Math.round(BLOCK_S * rate);
  const audio = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
  const stream = createStream(rate, file.name);
  await stream.ready;
  const channels = Array.from({ length: audio.numberOfChannels }, (_, index) => audio.getChannelData(index));
  for (let start = 0; start < audio.length; start += block) {
    const samples = Float32Array.from({ length: Math.min(block, audio.length - start) }, (_, i) => {
      return channels.reduce((sum, channel) => sum + channel[start + i], 0) / channels.length;
    });
    await stream.room();
    stream.send(samples);
  }
  stream.end();
  await stream.ended;
}

async function recognizeFiles(files) {
  for (const file of files) {
    try {
      await recognizeFile(file);
      show("ready");
    } catch (error) {
      show(`${file.name}: ${error.message}`);
    }
  }
}

byId("microphone").addEventListener("click", toggle);
byId("files").addEventListener("change", (event) => recognizeFiles([...event.target.files]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", name === "dragover");
    if (name === "drop" && engine) recognizeFiles([...event.dataTransfer.files]);
  });
}
