// uWebSockets, native: one thread, its Redis subscriber in the same loop.
//
// server PORT REDIS_PORT listens on loopback. GET /ws?user_id=<id> hears cs:broadcast and cs:user:<id>; what a client
// says is echoed. A broadcast is published to a topic of the library, which writes once per connection and turn of the
// loop; a user's message is sent to that user's socket.

#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <unordered_map>

#include "App.h"

namespace {

struct Client {
    std::string user;
};

using Socket = uWS::WebSocket<false, true, Client>;

uWS::App *app;
std::unordered_map<std::string, Socket *> users;

us_socket_t *redis = nullptr;
std::string redis_in;
std::string redis_out;

void flush() {
    if (redis == nullptr || redis_out.empty()) return;
    int written = us_socket_write(0, redis, redis_out.data(), (int) redis_out.size(), 0);
    redis_out.erase(0, (size_t) written);
}

void command(std::string_view verb, std::string_view word) {
    redis_out += "*2\r\n$" + std::to_string(verb.size()) + "\r\n" + std::string(verb) + "\r\n$" +
                 std::to_string(word.size()) + "\r\n" + std::string(word) + "\r\n";
}

// The next part of an array at `at`; false when it is not complete.
bool part(std::string_view in, size_t &at, std::string_view &word) {
    size_t end = in.find("\r\n", at);
    if (end == std::string_view::npos) return false;
    std::string_view head = in.substr(at, end - at);
    if (head[0] != '$') {
        word = head;
        at = end + 2;
        return true;
    }
    size_t length = (size_t) std::atoll(std::string(head.substr(1)).c_str());
    if (in.size() < end + 2 + length + 2) return false;
    word = in.substr(end + 2, length);
    at = end + 2 + length + 2;
    return true;
}

void hear(std::string_view in, size_t &read) {
    constexpr std::string_view personal = "cs:user:";
    for (;;) {
        size_t at = read;
        std::string_view head, kind, channel, text;
        if (!part(in, at, head) || !part(in, at, kind) || !part(in, at, channel) || !part(in, at, text)) return;
        read = at;
        if (kind != "message") continue;
        if (channel.starts_with(personal)) {
            auto found = users.find(std::string(channel.substr(personal.size())));
            if (found != users.end()) found->second->send(text, uWS::OpCode::TEXT);
        } else {
            app->publish("broadcast", text, uWS::OpCode::TEXT);
        }
    }
}

us_socket_t *gone(us_socket_t *, int) {
    std::cerr << "Redis hung up\n";
    std::exit(1);
}

void connect_redis(int port) {
    us_socket_context_options_t options = {};
    auto *context = us_create_socket_context(0, (us_loop_t *) uWS::Loop::get(), 0, options);
    us_socket_context_on_open(0, context, [](us_socket_t *s, int, char *, int) {
        redis = s;
        flush();
        return s;
    });
    us_socket_context_on_data(0, context, [](us_socket_t *s, char *data, int length) {
        size_t read = 0;
        if (redis_in.empty()) {
            std::string_view in(data, (size_t) length);
            hear(in, read);
            redis_in.assign(in.substr(read));
        } else {
            redis_in.append(data, (size_t) length);
            hear(redis_in, read);
            redis_in.erase(0, read);
        }
        return s;
    });
    us_socket_context_on_writable(0, context, [](us_socket_t *s) {
        flush();
        return s;
    });
    us_socket_context_on_timeout(0, context, [](us_socket_t *s) { return s; });
    us_socket_context_on_long_timeout(0, context, [](us_socket_t *s) { return s; });
    us_socket_context_on_close(0, context, [](us_socket_t *s, int code, void *) { return gone(s, code); });
    us_socket_context_on_end(0, context, [](us_socket_t *s) { return gone(s, 0); });
    us_socket_context_on_connect_error(0, context, gone);
    us_socket_context_connect(0, context, "127.0.0.1", port, nullptr, 0, 0);
}

}  // namespace

int main(int count, char **words) {
    if (count != 3) {
        std::cerr << "server PORT REDIS_PORT\n";
        return 64;
    }
    uWS::App own;
    app = &own;
    uWS::App::WebSocketBehavior<Client> behavior;
    behavior.compression = uWS::DISABLED;
    // As much as the gateway's WEBSOCKET_OUTBOX_BYTES; beyond it the library leaves messages out.
    behavior.maxBackpressure = 1024 * 1024;
    behavior.idleTimeout = 120;
    behavior.upgrade = [](auto *response, auto *request, auto *context) {
        response->template upgrade<Client>({std::string(request->getQuery("user_id"))},
                                           request->getHeader("sec-websocket-key"),
                                           request->getHeader("sec-websocket-protocol"),
                                           request->getHeader("sec-websocket-extensions"), context);
    };
    behavior.open = [](Socket *socket) {
        socket->subscribe("broadcast");
        const std::string &user = socket->getUserData()->user;
        users[user] = socket;
        command("SUBSCRIBE", "cs:user:" + user);
        flush();
    };
    behavior.message = [](Socket *socket, std::string_view text, uWS::OpCode code) { socket->send(text, code); };
    behavior.close = [](Socket *socket, int, std::string_view) {
        const std::string &user = socket->getUserData()->user;
        users.erase(user);
        command("UNSUBSCRIBE", "cs:user:" + user);
        flush();
    };
    command("SUBSCRIBE", "cs:broadcast");
    connect_redis(std::atoi(words[2]));
    own.ws<Client>("/*", std::move(behavior)).listen("127.0.0.1", std::atoi(words[1]), [](auto *listening) {
        if (listening == nullptr) {
            std::cerr << "the port is taken\n";
            std::exit(1);
        }
    });
    own.run();
}
