package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
)

func main() {
	options, err := redis.ParseURL(os.Getenv("REDIS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	client, secret := redis.NewClient(options), []byte(os.Getenv("SSED_AUTH_JWT_SECRET"))

	// Yours, once you know who it is.
	http.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		user := r.FormValue("user") // a number: in a name of letters, escape what is a glob
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"sub": user, "channels": []string{"user:" + user}, "exp": time.Now().Add(time.Hour).Unix(),
		}).SignedString(secret)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "sse", Value: token, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	})

	http.HandleFunc("POST /orders/{order}/pay", func(w http.ResponseWriter, r *http.Request) {
		order := r.PathValue("order")
		event, _ := json.Marshal(map[string]any{
			"event": "order.paid", "id": "order-" + order, "data": map[string]any{"order": json.Number(order)},
		})
		if err := client.Publish(r.Context(), fmt.Sprintf("user:%s", r.FormValue("user")), event).Err(); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})

	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
