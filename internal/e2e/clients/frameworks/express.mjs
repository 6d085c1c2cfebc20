import express from "express";
import jwt from "jsonwebtoken";
import { createClient } from "redis";

const app = express();
const redis = await createClient({ url: process.env.REDIS_URL }).connect();
const secret = process.env.SSED_AUTH_JWT_SECRET;

// Yours, once you know who it is.
app.post("/login", (req, res) => {
  const user = Number(req.query.user);
  const token = jwt.sign({ sub: String(user), channels: [`user:${user}`] }, secret, { expiresIn: "1h" });
  res.cookie("sse", token, { httpOnly: true, sameSite: "lax" }).end();
});

app.post("/orders/:order/pay", async (req, res) => {
  const order = Number(req.params.order);
  const event = { event: "order.paid", id: `order-${order}`, data: { order } };
  await redis.publish(`user:${req.query.user}`, JSON.stringify(event));
  res.end();
});

app.listen(process.env.PORT, "127.0.0.1");
