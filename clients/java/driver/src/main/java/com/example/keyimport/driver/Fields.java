package com.example.keyimport.driver;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.util.Base64;

/** The fields of a request; one that is missing or of another kind is the tests' fault, and ends the driver. */
record Fields(JsonObject request) {
    boolean has(String name) {
        return request.has(name) && !request.get(name).isJsonNull();
    }

    String text(String name) {
        return get(name).getAsString();
    }

    String text(String name, String otherwise) {
        return has(name) ? text(name) : otherwise;
    }

    long number(String name) {
        return get(name).getAsLong();
    }

    boolean flag(String name) {
        return has(name) && get(name).getAsBoolean();
    }

    byte[] bytes(String name) {
        return Base64.getDecoder().decode(text(name));
    }

    private JsonElement get(String name) {
        if (!has(name)) {
            throw new IllegalStateException("the request has no " + name);
        }
        return request.get(name);
    }
}
