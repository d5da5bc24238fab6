// Runs inside the page: opens connections with the browser's own WebSocket and WebTransport, and hands every frame to
// `hearthFrame(connection, text)` and every end to `hearthEnd(connection, code)`, which the runner provides.
globalThis.hearthClients = (() => {
  const connections = new Map();

  function openWebSocket(name, region) {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(region.ws);
      socket.onopen = () => resolve({ send: (text) => socket.send(text), leave: () => socket.close(1000) });
      socket.onmessage = (event) => hearthFrame(name, event.data);
      socket.onerror = () => reject(new Error("the WebSocket did not open"));
      socket.onclose = (event) => hearthEnd(name, event.code);
    });
  }

  function framed(text) {
    const body = new TextEncoder().encode(text);
    const frame = new Uint8Array(4 + body.length);
    new DataView(frame.buffer).setUint32(0, body.length);
    frame.set(body, 4);
    return frame;
  }

  async function readFrames(name, readable) {
    const reader = readable.getReader();
    let buffer = new Uint8Array(0);
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const joined = new Uint8Array(buffer.length + value.length);
      joined.set(buffer);
      joined.set(value, buffer.length);
      buffer = joined;
      while (buffer.length >= 4) {
        const length = new DataView(buffer.buffer, buffer.byteOffset).getUint32(0);
        if (buffer.length < 4 + length) break;
        hearthFrame(name, new TextDecoder("utf-8", { fatal: true }).decode(buffer.subarray(4, 4 + length)));
        buffer = buffer.slice(4 + length);
      }
    }
  }

  async function openWebTransport(name, region) {
    const serverCertificateHashes = region.certificateHashes.map(({ algorithm, value }) =>
      ({ algorithm, value: Uint8Array.from(atob(value), (c) => c.charCodeAt(0)) }));
    const transport = new WebTransport(region.webtransport, { serverCertificateHashes });
    await transport.ready;
    const { readable, writable } = await transport.createBidirectionalStream();
    const writer = writable.getWriter();
    // No browser shows a dependable code here: what counts is the in-band close frame before.
    readFrames(name, readable).catch(() => {}).then(() => hearthEnd(name, null));
    transport.closed.catch(() => {});
    return { send: (text) => writer.write(framed(text)), leave: () => writer.close() };
  }

  return {
    async open(name, kind, region) {
      connections.set(name, await (kind === "websocket" ? openWebSocket : openWebTransport)(name, region));
    },
    async send(name, text) {
      await connections.get(name).send(text);
    },
    async leave(name) {
      await connections.get(name).leave();
    },
  };
})();
