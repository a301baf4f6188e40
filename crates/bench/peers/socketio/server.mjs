// Socket.IO with its Redis adapter: a connection joins the room of its ?user_id=; what comes through the adapter is
// emitted to all or to a room; the event "echo" goes back.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const [port, redisPort] = process.argv.slice(2).map(Number);
const publisher = createClient({ url: `redis://127.0.0.1:${redisPort}` });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const http = createServer();
const io = new Server(http, {
  adapter: createAdapter(publisher, subscriber),
  transports: ["websocket"],
  perMessageDeflate: false,
  // The load generator answers no pings of the application.
  pingInterval: 600_000,
});
io.on("connection", (socket) => {
  socket.join(socket.handshake.query.user_id);
  socket.on("echo", (data) => socket.emit("echo", data));
});
http.listen({ port, host: "127.0.0.1", backlog: 1024 });
