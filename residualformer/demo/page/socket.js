// The page with a server: sends samples over a WebSocket (docs/demo.md).
import { start } from "./app.js";

const IN_FLIGHT = 3; // most messages of a file without an answer
const MOST_WAITING = 2 ** 21; // bytes from the microphone not yet sent; with more, the server is too slow

class SocketStream {
  // See `start` of app.js.
  constructor(rate, hotwords, answer) {
    this.unanswered = 0;
    this.socket = new WebSocket(`ws://${location.host}/stream`);
    this.socket.binaryType = "arraybuffer";
    this.ready = new Promise((resolve, reject) => {
      this.socket.onopen = () => {
        this.socket.send(JSON.stringify({ rate, hotwords }));
        resolve();
      };
      this.socket.onerror = () => reject(new Error("the server has no free stream, or has stopped"));
    });
    this.ended = new Promise((resolve, reject) => {
      this.socket.onclose = () => resolve();
      this.fail = reject;
    });
    this.ready.catch(() => {});
    this.ended.catch(() => {});
    this.socket.onmessage = (event) => this.hear(JSON.parse(event.data), answer);
  }

  hear(message, answer) {
    if (message.error) {
      this.fail(new Error(message.error));
      return;
    }
    answer(message);
    if (message.model) return;
    this.unanswered -= message.ended ? 0 : 1;
    if (message.ended) this.socket.close();
    this.wake?.();
  }

  send(samples) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    if (this.socket.bufferedAmount > MOST_WAITING) {
      this.fail(new Error("this machine is too slow for the model"));
      this.socket.close();
      return;
    }
    this.unanswered += 1;
    this.socket.send(Int16Array.from(samples, (sample) => Math.round(Math.max(-1, Math.min(1, sample)) * 32767)));
  }

  async room() {
    while (this.unanswered >= IN_FLIGHT && this.socket.readyState === WebSocket.OPEN) {
      await Promise.race([new Promise((resolve) => { this.wake = resolve; }), this.ended]);
    }
  }

  end() {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send("end");
  }
}

const createStream = (rate, hotwords, answer) => new SocketStream(rate, hotwords, answer);
start({ fileRate: 48000, createStream });
