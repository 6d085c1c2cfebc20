package shop;

import com.auth0.jwt.JWT;
import com.auth0.jwt.algorithms.Algorithm;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.data.redis.core.StringRedisTemplate;
import org.springframework.http.HttpHeaders;
import org.springframework.http.ResponseCookie;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;

@SpringBootApplication
public class Shop {
  public static void main(String[] args) {
    SpringApplication.run(Shop.class, args);
  }
}

// snippet
@RestController
class Orders {
  private final StringRedisTemplate redis;
  private final ObjectMapper json;

  Orders(StringRedisTemplate redis, ObjectMapper json) {
    this.redis = redis;
    this.json = json;
  }

  @PostMapping("/login") // yours, once you know who it is
  ResponseEntity<Void> login(@RequestParam long user) {
    String token = JWT.create()
        .withSubject(String.valueOf(user))
        .withArrayClaim("channels", new String[] {"user:" + user})
        .withExpiresAt(Instant.now().plus(Duration.ofHours(1)))
        .sign(Algorithm.HMAC256(System.getenv("SSED_AUTH_JWT_SECRET")));
    var cookie = ResponseCookie.from("sse", token).httpOnly(true).sameSite("Lax").path("/").build();
    return ResponseEntity.ok().header(HttpHeaders.SET_COOKIE, cookie.toString()).build();
  }

  @PostMapping("/orders/{order}/pay")
  void pay(@PathVariable long order, @RequestParam long user) throws JsonProcessingException {
    var event = Map.of("event", "order.paid", "id", "order-" + order, "data", Map.of("order", order));
    redis.convertAndSend("user:" + user, json.writeValueAsString(event));
  }
}
// end
