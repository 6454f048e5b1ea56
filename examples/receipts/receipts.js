// A service in Node.js without any code of the mesh: it listens on MESH_HOST and PORT, and calls xds:///order for each receipt.
//
// It has neither a health service nor reflection: its port is its health, receipts.binpb its description.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const xds = require("@grpc/grpc-js-xds");

xds.register();

// A message of a descriptor set has its fields by their names in the .proto file.
function load(...names) {
  const file = fs.readFileSync(path.join(__dirname, ...names));
  return grpc.loadPackageDefinition(loader.loadFileDescriptorSetFromBuffer(file, { longs: String, defaults: true }));
}

const { ReceiptService } = load("receipts.binpb").examples.receipts.v1;
const { OrderService } = load("..", "..", "gen", "descriptors.binpb").meshwright.order.v1;

// One client for the process: it balances over all instances, and follows them as they come and go. Over TLS where the
// service demands that, with the certificate that GRPC_XDS_BOOTSTRAP names.
const orders = new OrderService("xds:///order", new xds.XdsChannelCredentials(grpc.credentials.createInsecure()));

function amount({ currency_code, units, nanos }) {
  return `${units}.${String(Math.floor(nanos / 1e7)).padStart(2, "0")} ${currency_code}`;
}

function receipt(order) {
  const lines = order.lines.map((line) => `${line.quantity} x ${line.sku} at ${amount(line.unit_price)}`);
  return { order_id: order.id, lines: [...lines, `Total ${amount(order.total)}`] };
}

function getReceipt(call, answer) {
  const options = { parent: call, propagate_flags: grpc.propagate.DEFAULTS };
  orders.getOrder({ id: call.request.order_id }, new grpc.Metadata(), options, (error, order) => {
    if (error) {
      answer({ code: error.code, details: `order: ${error.details}` });
    } else {
      answer(null, receipt(order));
    }
  });
}

// Who calls has to prove itself as we do; MESH_IDENTITY is not there on a mesh in plaintext.
function credentials(folder) {
  if (!folder) {
    return grpc.ServerCredentials.createInsecure();
  }
  const files = new grpc.experimental.FileWatcherCertificateProvider({
    certificateFile: path.join(folder, "current", "certificate.pem"),
    privateKeyFile: path.join(folder, "current", "key.pem"),
    caCertificateFile: path.join(folder, "current", "roots.pem"),
    refreshIntervalMs: 1000,
  });
  return grpc.experimental.createCertificateProviderServerCredentials(files, files, true);
}

const server = new grpc.Server();
server.addService(ReceiptService.service, { getReceipt });
const address = `${process.env.MESH_HOST || "127.0.0.1"}:${process.env.PORT}`;
server.bindAsync(address, credentials(process.env.MESH_IDENTITY), (error) => {
  if (error) {
    console.error(error.message);
    process.exit(1);
  }
});
process.on("SIGTERM", () => server.tryShutdown(() => process.exit(0)));
