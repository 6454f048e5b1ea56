// Calls of the probe by gRPC-Web: each answers what a program on the page sees.
import { GrpcWebClientBase, MethodDescriptor, MethodType } from "./node_modules/grpc-web/index.esm.js";

const root = protobuf.parse(await (await fetch("probe.proto")).text()).root;
const [Request, Thing] = ["GetThingRequest", "Thing"].map((name) => root.lookupType(`probe.v1.${name}`));
const SERVICE = "probe.v1.ProbeService";

function descriptor(path, type) {
  const serialize = (request) => Request.encode(request).finish();
  const plain = (bytes) => Thing.toObject(Thing.decode(bytes), { longs: String, enums: String });
  return new MethodDescriptor(path, type, Object, Object, serialize, plain);
}

function listen(call) {
  const seen = { messages: [], metadata: {}, status: null, error: null };
  return new Promise((resolve) => {
    call.on("metadata", (metadata) => Object.assign(seen.metadata, metadata));
    call.on("status", (status) => { seen.status = status; });
    call.on("error", ({ code, message, metadata }) => resolve({ ...seen, error: { code, message, metadata } }));
    call.on("data", (message) => seen.messages.push(message));
    call.on("end", () => resolve(seen));
  });
}

function unary(edge, format, id, metadata) {
  const path = `/${SERVICE}/GetThing`;
  const client = new GrpcWebClientBase({ format });
  return new Promise((resolve) => {
    const seen = { message: null, error: null, status: null, metadata: {} };
    const call = client.rpcCall(edge + path, { id }, metadata, descriptor(path, MethodType.UNARY), (error, message) => {
      seen.error = error && { code: error.code, message: error.message, metadata: error.metadata };
      seen.message = message;
      setTimeout(resolve, 0, seen);
    });
    call.on("status", (status) => { seen.status = status; });
    call.on("metadata", (found) => Object.assign(seen.metadata, found));
  });
}

function open(edge, format, id) {
  const path = `/${SERVICE}/WatchThing`;
  return new GrpcWebClientBase({ format }).serverStreaming(
    edge + path, { id }, {}, descriptor(path, MethodType.SERVER_STREAMING),
  );
}

const stream = (edge, format, id) => listen(open(edge, format, id));

// Resolves while the stream is open, after its second message, and then goes.
function glance(edge, id) {
  const messages = [];
  const call = open(edge, "text", id);
  return new Promise((resolve) => {
    call.on("data", (message) => {
      messages.push(message);
      if (messages.length === 2) {
        call.cancel();
        resolve(messages);
      }
    });
  });
}

async function rest(url, options) {
  const answer = await fetch(url, options);
  return { status: answer.status, body: await answer.json() };
}

window.page = { unary, stream, glance, rest };
