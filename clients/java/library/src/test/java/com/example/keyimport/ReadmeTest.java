package com.example.keyimport;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Pattern;
import javax.tools.DiagnosticCollector;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.ToolProvider;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What the README shows compiles. */
class ReadmeTest {
    private static final Pattern SNIPPET = Pattern.compile("^```java\n(.*?)^```$", Pattern.MULTILINE | Pattern.DOTALL);

    /** The fields are what the reader has already. */
    private static final String CLASS = """
            import com.example.keyimport.*;

            class Reader {
                KeyImportClient client;
                String keyId;
                byte[] material;
                java.time.Instant validTo;

                void does() {
                    %s
                }
            }
            """;

    @Test
    void showsWhatCompiles(@TempDir Path directory) throws IOException {
        var snippets = SNIPPET.matcher(Files.readString(Path.of("..", "README.md")))
                .results()
                .map(found -> found.group(1))
                .toList();
        assertEquals(2, snippets.size());
        for (var snippet : snippets) {
            assertEquals(List.of(), compile(CLASS.formatted(snippet), directory));
        }
    }

    /** What the compiler has to say of it. */
    private static List<?> compile(String source, Path directory) {
        var diagnostics = new DiagnosticCollector<JavaFileObject>();
        var file = new SimpleJavaFileObject(URI.create("string:///Reader.java"), JavaFileObject.Kind.SOURCE) {
            @Override
            public CharSequence getCharContent(boolean ignoreEncodingErrors) {
                return source;
            }
        };
        var options = List.of("-d", directory.toString(), "-cp", System.getProperty("java.class.path"), "-proc:none");
        ToolProvider.getSystemJavaCompiler()
                .getTask(null, null, diagnostics, options, null, List.of(file))
                .call();
        return diagnostics.getDiagnostics();
    }
}
